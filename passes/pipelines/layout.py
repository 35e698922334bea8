"""Layout of a graph in pieces: which piece of which stage runs on which device, and in which order they are sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError

import networkx as nx

from dynamo_genie.passes.placement.memory import fits, without_growth
from dynamo_genie.passes.placement.partition import make_plan
from dynamo_genie.passes.placement.plan import PlacementPlan
from dynamo_genie.passes.placement.problem import Problem, make_problem
from dynamo_genie.passes.placement.replication import find_replicable
from dynamo_genie.passes.placement.score import Scored, score_parts
from dynamo_genie.passes.placement.semantic_graph import semantic_graph
from dynamo_genie.passes.placement.step_time import number_parts
from dynamo_genie.passes.placement.topology import Topology
from dynamo_genie.passes.rows.cut_rows import CutGraph


@dataclass(frozen=True)
class Grid:
    """Devices, by number, in `groups` of as many as there are stages: a piece goes through the stages of one group.

    One group is a pipeline; groups of one stage are replicas.
    """

    groups: tuple[tuple[int, ...], ...]

    @property
    def stages(self) -> int:
        """How many stages a piece goes through."""
        return len(self.groups[0])

    def device(self, stage: int, piece: int) -> int:
        """Return the device on which a stage of a piece runs."""
        return self.groups[piece % len(self.groups)][stage]


def lay_out(
    cut: CutGraph,
    stage_of: Mapping[str, int],
    grid: Grid,
    topology: Topology,
    homes: Mapping[str, frozenset[str]],
    words: str,
) -> tuple[float, PlacementPlan] | None:
    """Return the plan of a graph in pieces, and what it costs; None where it does not fit, or waits for itself.

    Args:
        stage_of: The stage of each call of the graph before it was cut; those absent run where they are read.
        words: What kind of layout it is, for people.
    """
    graph = semantic_graph(cut.gm)
    replicable = find_replicable(graph, homes) | cut.masks
    keys = _keys(cut, graph, replicable, stage_of, grid)
    order = sorted(set(keys.values()))
    units = tuple(tuple(name for name in keys if keys[name] == key) for key in order)
    problem = make_problem(graph, units, replicable, topology, homes)
    devices = tuple(device for _, device in order)
    if not (fits(problem, devices) or fits(without_growth(problem), devices)):
        return None
    merged = [_merged(order, len(cut.pieces), grid.stages), order]
    found = [scored for each in merged if (scored := _score(problem, devices, each)) is not None]
    if not found:
        return None
    best = min(found, key=lambda scored: scored.score_s)
    reason = f"{words}, {len(cut.pieces)} pieces: {best.time.step_s * 1e3:.3f} ms a call"
    return best.score_s, make_plan(graph, problem, replicable, best, "semantic", (reason,))


def _keys(
    cut: CutGraph, graph: nx.DiGraph, replicable: frozenset[str], stage_of: Mapping[str, int], grid: Grid
) -> dict[str, tuple[int, int]]:
    """Return for each call when and where it runs: a number that grows with piece and stage, and a device."""
    last = len(cut.pieces)
    stages: dict[str, int] = {}
    for name in reversed(list(graph)):
        origin = cut.origins.get(name)
        if origin is not None:
            read = [stages[reader] for reader in graph.succ[name] if reader in stages]
            here = grid.stages - 1 if name in cut.gathered else stage_of.get(origin.node)
            stages[name] = here if here is not None else min(read, default=grid.stages - 1)
    keys: dict[str, tuple[int, int]] = {}
    for name in graph:
        if name in stages and name not in replicable:
            piece = cut.origins[name].piece
            late = name in cut.late or name in cut.gathered
            turn = last if late else -1 if piece is None else piece
            keys[name] = (turn + 1) * grid.stages + stages[name], grid.device(stages[name], 0 if late else turn)
    return keys


def _merged(order: Sequence[tuple[int, int]], pieces: int, stages: int) -> list[tuple[int, int]]:
    """Let what is done once run with the first or the last piece of its device: fewer messages."""

    def moved(turn: int, device: int) -> tuple[int, int]:
        piece = turn // stages - 1
        near = 0 if piece < 0 else pieces - 1 if piece == pieces else piece
        other = (near + 1) * stages + turn % stages, device
        return other if other in known else (turn, device)

    known = set(order)
    return [moved(*key) for key in order]


def _score(problem: Problem, devices: tuple[int, ...], keys: Sequence[tuple[int, int]]) -> Scored | None:
    try:
        parts = number_parts(problem, list(keys), in_turn=True)
    except CycleError:
        return None
    return score_parts(problem, devices, parts)
