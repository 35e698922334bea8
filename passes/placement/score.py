"""Scores of placements by the cost model, and local search: units are moved one by one."""

from __future__ import annotations

from dataclasses import dataclass
from graphlib import CycleError

from dynamo_genie.passes.placement.contiguous import UPLOAD_SHARE
from dynamo_genie.passes.placement.memory import fits
from dynamo_genie.passes.placement.problem import Problem
from dynamo_genie.passes.placement.step_time import (
    Devices,
    Parts,
    StepTime,
    number_parts,
    parts_of,
    predict,
    transfer_s,
)

_MOVES = 20_000
"""Units looked at while a placement is improved, all trials together: bounds the time on large graphs."""


@dataclass(frozen=True)
class Scored:
    """A placement that fits, its parts, and what it costs; `score_s` adds a share of the uploads it still needs."""

    devices: Devices
    parts: Parts
    time: StepTime
    score_s: float

    @property
    def rank(self) -> tuple[float, int]:
        """Smaller is better; of two that cost the same, the one with fewer parts."""
        return self.score_s, len(self.parts.device)


def score(problem: Problem, devices: Devices) -> Scored | None:
    """Return what a placement costs, None where it does not fit."""
    return score_parts(problem, devices, parts_of(problem, devices)) if fits(problem, devices) else None


def improve(problem: Problem, best: Scored) -> Scored:
    """Move units at the borders between devices one by one, as long as a move makes the step shorter."""
    trials = _MOVES // max(len(problem.units), 1)
    improved = True
    while improved:
        improved = False
        for unit, device in _border(problem, best.devices):
            if trials == 0:
                return best
            trials -= 1
            moved = score(problem, (*best.devices[:unit], device, *best.devices[unit + 1 :]))
            if moved is not None and moved.rank < best.rank:
                best, improved = moved, True
                break
    return best


def merge_parts(problem: Problem, best: Scored) -> Scored:
    """Join parts of one device where that makes no circle and no step longer: fewer messages a call."""
    joined = True
    while joined:
        joined = False
        n_parts = len(best.parts.device)
        pairs = [(a, b) for a in range(n_parts) for b in range(a + 1, n_parts)]
        for one, other in pairs:
            if best.parts.device[one] == best.parts.device[other]:
                merged = _merge(problem, best, one, other)
                if merged is not None and merged.rank <= best.rank:
                    best, joined = merged, True
                    break
    return best


def score_parts(problem: Problem, devices: Devices, parts: Parts) -> Scored:
    """Return what parts cost that are gathered already; whether they fit is another question."""
    time = predict(problem, parts)
    return Scored(devices, parts, time, time.step_s + UPLOAD_SHARE * _uploads_s(problem, devices))


def _merge(problem: Problem, scored: Scored, one: int, other: int) -> Scored | None:
    keys = [(one if part == other else part, scored.parts.device[part]) for part in scored.parts.of]
    try:
        return score_parts(problem, scored.devices, number_parts(problem, keys))
    except CycleError:
        return None


def _uploads_s(problem: Problem, devices: Devices) -> float:
    """Return the seconds in which weights come to devices that do not have them yet; they come once."""
    return sum(
        transfer_s(problem, None, device, weight.nbytes)
        for weight in problem.weights
        for device in sorted({devices[unit] for unit in weight.readers} - set(weight.homes))
    )


def _border(problem: Problem, devices: Devices) -> list[tuple[int, int]]:
    """Return the units that have a neighbour elsewhere, each with the devices of its neighbours."""
    moves: dict[tuple[int, int], None] = {}
    for unit, others in enumerate(problem.predecessors):
        for other in others:
            if devices[unit] != devices[other]:
                moves[unit, devices[other]] = None
                moves[other, devices[unit]] = None
    return list(moves)
