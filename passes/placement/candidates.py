"""Candidate placements: each follows one idea, and none is trusted before the cost model has scored it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

from dynamo_genie.passes.placement.branches import schedule_branches
from dynamo_genie.passes.placement.contiguous import shared_weights, split_contiguously
from dynamo_genie.passes.placement.memory import Ledger, unit_nbytes
from dynamo_genie.passes.placement.problem import Problem
from dynamo_genie.passes.placement.step_time import Devices

Candidate = tuple[str, Devices]
"""The idea in words, and a device for each unit. It may still break a limit."""

_MANY_DEVICES = 4


def propose(problem: Problem) -> Iterator[Candidate]:
    """Yield placements in a fixed order; the earlier wins where two cost the same."""
    for device in problem.devices:
        yield f"all on {_name(problem, device)}", (device,) * len(problem.units)
    yield "everything where its inputs are", _follow_inputs(problem)
    for order in _orders(problem):
        path = " then ".join(_name(problem, device) for device in order)
        for words, pinned in _pins(problem, order[0]):
            if found := split_contiguously(problem, order, pinned):
                yield f"one stretch a device, {path}{words}", found
    if branches := schedule_branches(problem):
        yield "each branch where it ends first", branches


def pack(problem: Problem) -> Devices | None:
    """Return a placement that looks at nothing but memory, largest units first, for when nothing else fits."""
    needed = unit_nbytes(problem)
    ledger = Ledger(problem)
    chosen: dict[int, int] = {}
    for unit in sorted(range(len(problem.units)), key=lambda unit: (-needed[unit], unit)):
        options = [device for device in problem.devices if ledger.takes((unit,), device)]
        if not options:
            return None
        chosen[unit] = min(options, key=lambda device: (ledger.needed((unit,), device), -ledger.left[device], device))
        ledger.put((unit,), chosen[unit])
    return tuple(chosen[unit] for unit in range(len(problem.units)))


def _orders(problem: Problem) -> Iterator[tuple[int, ...]]:
    """Yield the orders in which devices may follow one another: all, or the rotations of the user's, both ways."""
    devices = tuple(problem.devices)
    if len(devices) == 1:
        return
    if len(devices) <= _MANY_DEVICES:
        yield from permutations(devices)
        return
    for turn in range(len(devices)):
        turned = devices[turn:] + devices[:turn]
        yield turned
        yield turned[::-1]


def _pins(problem: Problem, first: int) -> Iterator[tuple[str, dict[int, int]]]:
    """Yield what is fixed before the cuts are chosen: what must be, then also what shares weights with the first."""
    must = {unit: allowed[0] for unit, allowed in enumerate(problem.allowed) if len(allowed) < len(problem.devices)}
    yield "", must
    shared = shared_weights(problem)
    if shared:
        together = [
            unit for unit in (*shared, *range(shared[-1] + 1, len(problem.units))) if first in problem.allowed[unit]
        ]
        yield ", units with shared weights and the end on the first", {**must, **dict.fromkeys(together, first)}


def _follow_inputs(problem: Problem) -> Devices:
    """Put each unit where most of its input bytes are, and one without any beside what it reads from."""
    at: list[dict[int, int]] = [{} for _ in problem.units]
    for each in (*problem.weights, *problem.inputs):
        for unit in each.readers:
            for home in each.homes:
                at[unit][home] = at[unit].get(home, 0) + each.nbytes
    chosen: list[int] = []
    for unit, homes in enumerate(at):
        allowed = problem.allowed[unit]
        options = sorted((-nbytes, home) for home, nbytes in homes.items() if home in allowed)
        before = [chosen[other] for other in reversed(problem.predecessors[unit]) if chosen[other] in allowed]
        chosen.append(options[0][1] if options else before[0] if before else allowed[0])
    return tuple(chosen)


def _name(problem: Problem, device: int) -> str:
    return problem.topology.devices[device].name
