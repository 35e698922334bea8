"""Pipelines for a graph on several devices: layouts are proposed, the cost model judges, little gain is no gain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch.fx import GraphModule, Node

from dynamo_genie.passes.graphs.graph_view import result_nodes
from dynamo_genie.passes.graphs.semantics import Role, facts_of
from dynamo_genie.passes.pipelines.layout import Grid, lay_out
from dynamo_genie.passes.pipelines.seeds import KERNEL_BLOCK, Seeds, find_seeds
from dynamo_genie.passes.pipelines.stages import balanced_stages
from dynamo_genie.passes.placement.contiguous import shared_weights
from dynamo_genie.passes.placement.contraction import contract
from dynamo_genie.passes.placement.memory import without_growth
from dynamo_genie.passes.placement.placement import LEAST_GAIN
from dynamo_genie.passes.placement.plan import PlacementPlan
from dynamo_genie.passes.placement.problem import Problem, find_pins, make_problem
from dynamo_genie.passes.placement.replication import find_replicable
from dynamo_genie.passes.placement.semantic_graph import semantic_graph
from dynamo_genie.passes.placement.topology import Topology
from dynamo_genie.passes.rows.analysis import RowAnalysis, find_most_rows, reasons
from dynamo_genie.passes.rows.cut_rows import CutGraph, cut_rows
from dynamo_genie.passes.rows.pieces import Piece, pieces_at
from dynamo_genie.passes.rows.template import CannotCut

LEADS = (1.0, 1.1, 1.2, 1.35)
"""How many times as long as the first stage the last one may be, tried where later pieces take longer: of a prompt."""

MOST_PIECES = 16
"""Pieces of a prompt: each is a program of its own on each stage."""

SHORTEST_S = 2e-3
"""Calls that are shorter than this are not looked at: messages would take as long as what they share out."""


@dataclass(frozen=True)
class Pipeline:
    """A graph in pieces, and where they run.

    Attributes:
        cut: The graph.
        analysis: What of the graph runs piece by piece.
        plan: Where its parts run.
        cost_s: Seconds of a call, and a share of the uploads that it needs.
    """

    cut: CutGraph
    analysis: RowAnalysis
    plan: PlacementPlan
    cost_s: float


@dataclass(frozen=True)
class Proposals:
    """The pipelines that are worth it, best first, and why there are no others, for people."""

    pipelines: tuple[Pipeline, ...]
    reasons: tuple[str, ...]


def propose_pipelines(
    gm: GraphModule, topology: Topology, homes: Mapping[str, frozenset[str]], whole: PlacementPlan
) -> Proposals:
    """Return the ways in which a call of `gm` can be shared out that are shorter than `whole`.

    Args:
        gm: An annotated graph whose shapes are numbers.
        homes: Where its inputs already are, as for placement.
        whole: The plan without pieces.
    """
    if len(topology.devices) < 2 or whole.step_s < SHORTEST_S:
        return Proposals((), ())
    found: list[Pipeline] = []
    why: list[str] = []
    for seeds in find_seeds(gm):
        try:
            analysis = find_most_rows(gm, seeds.axes, seeds.rows)
        except CannotCut as error:
            why.append(f"not in pieces of {seeds.what}: {error}")
            continue
        why += [f"whole after all {seeds.what}: {reason}" for reason in reasons(analysis)]
        proposed = list(_Proposing(gm, topology, homes, seeds, analysis).all())
        if not proposed:
            why.append(f"not in pieces of {seeds.what}: no layout of pieces fits on the daemons")
        found += proposed
    limit = whole.step_s * (1 - LEAST_GAIN)
    worth = sorted((each for each in found if each.cost_s < limit), key=lambda each: each.cost_s)
    if found and not worth:
        best = min(each.cost_s for each in found)
        why.append(f"not in pieces: {best * 1e3:.3f} ms a call would save less than {LEAST_GAIN:.0%}")
    return Proposals(tuple(worth), tuple(why))


class _Proposing:
    """The layouts of one graph, cut along one kind of rows."""

    def __init__(
        self,
        gm: GraphModule,
        topology: Topology,
        homes: Mapping[str, frozenset[str]],
        seeds: Seeds,
        analysis: RowAnalysis,
    ) -> None:
        self._gm = gm
        self._topology = topology
        self._homes = homes
        self._seeds = seeds
        self._analysis = analysis
        self._problem = _problem_of(gm, topology, homes)

    def all(self) -> Iterator[Pipeline]:
        """Yield every layout that fits."""
        layouts = self._of_tokens() if self._seeds.what == "tokens" else self._of_samples()
        for words, grid, boundaries, gathered in layouts:
            pieces = pieces_at(boundaries)
            if len(pieces) > 1:
                yield from self._laid_out(words, grid, pieces, gathered)

    def _of_tokens(self) -> Iterator[tuple[str, Grid, list[int], frozenset[Node]]]:
        devices = tuple(self._problem.devices)
        boundaries = token_boundaries(self._seeds.rows)
        caches = frozenset(n for n in result_nodes(self._gm) if facts_of(n).role is Role.KV_CACHE)
        for order in (devices,) if self._alike() else (devices, devices[::-1]):
            grid = Grid((order,))
            if caches and self._fits_on(order[-1]):
                yield "stages of a prompt, its caches gathered on the last", grid, boundaries, caches
            else:
                yield "stages of a prompt, its caches where they are made", grid, boundaries, frozenset()

    def _of_samples(self) -> Iterator[tuple[str, Grid, list[int], frozenset[Node]]]:
        devices, rows = tuple(self._problem.devices), self._seeds.rows
        results = frozenset(result_nodes(self._gm))  # joined when all pieces are there: none waits for another
        yield "replicas of the model", Grid(tuple((d,) for d in devices)), self._shares(devices), results
        for count in (2 * len(devices), 4 * len(devices)):
            if rows // count >= 2:
                yield "stages of the model", Grid((devices,)), evenly(rows, count), results
        half = len(devices) // 2
        if half >= 2 and rows // (4 * half) >= 2:
            groups = tuple(tuple(devices[i * half : (i + 1) * half]) for i in range(2))
            yield "two replicas in stages", Grid(groups), evenly(rows, 4 * half), results

    def _alike(self) -> bool:
        """Say whether it makes no difference which device comes first."""
        seconds = [sum(unit[device] for unit in self._problem.seconds) for device in self._problem.devices]
        memory = [device.memory_nbytes for device in self._topology.devices]
        held = any(weight.homes for weight in self._problem.weights)
        return not held and all(min(of) >= (1 - LEAST_GAIN) * max(of) for of in (seconds, memory))

    def _shares(self, devices: Sequence[int]) -> list[int]:
        """Return boundaries that give each device as many rows as it is fast."""
        speeds = [1 / max(sum(unit[device] for unit in self._problem.seconds), 1e-9) for device in devices]
        ends = [round(self._seeds.rows * sum(speeds[: i + 1]) / sum(speeds)) for i in range(len(devices))]
        return list(dict.fromkeys([0, *ends]))

    def _fits_on(self, device: int) -> bool:
        weights = sum(weight.nbytes for weight in self._problem.weights if weight.readers)
        return weights + sum(self._problem.reserved_nbytes) <= self._topology.devices[device].memory_nbytes

    def _laid_out(
        self, words: str, grid: Grid, pieces: tuple[Piece, ...], gathered: frozenset[Node]
    ) -> Iterator[Pipeline]:
        cut: CutGraph | None = None
        for stages in self._stages(grid):
            cut = cut or cut_rows(self._gm, self._analysis, pieces, gathered)
            names = {name: stage for unit, stage in zip(self._problem.units, stages, strict=True) for name in unit}
            found = lay_out(cut, names, grid, self._topology, self._homes, words)
            if found is not None:
                cost_s, plan = found
                if gathered and self._seeds.what == "tokens":
                    plan = replace(plan, gathers=self._topology.devices[grid.groups[0][-1]].name)
                yield Pipeline(cut, self._analysis, plan, cost_s)

    def _stages(self, grid: Grid) -> Iterator[tuple[int, ...]]:
        """Yield the stages of all units: cut in some ways, then with the end where weights are that it shares."""
        if grid.stages == 1:
            yield (0,) * len(self._problem.units)
            return
        must = {
            unit: grid.groups[0].index(allowed[0])
            for unit, allowed in enumerate(self._problem.allowed)
            if len(allowed) < len(self._problem.devices)
        }
        shared = shared_weights(self._problem)
        end = range(shared[-1] + 1, len(self._problem.units)) if shared else ()
        together = dict.fromkeys((*shared, *end), 0)
        leads = LEADS if self._seeds.what == "tokens" else LEADS[:1]
        ways: list[tuple[dict[int, int], float]] = [({}, lead) for lead in leads] + (
            [(together, 1.0)] if shared else []
        )
        for problem in (self._problem, without_growth(self._problem)):
            found = [balanced_stages(problem, grid.groups[0], {**pinned, **must}, lead) for pinned, lead in ways]
            if any(found):
                yield from dict.fromkeys(filter(None, found))
                return


def token_boundaries(rows: int) -> list[int]:
    """Return boundaries at multiples of the kernel's block; a last piece that would be tiny joins the one before."""
    blocks = -(-rows // KERNEL_BLOCK)
    size = KERNEL_BLOCK * -(-blocks // MOST_PIECES)
    inner = [begin for begin in range(size, rows, size) if rows - begin >= KERNEL_BLOCK // 16]
    return [0, *inner, rows]


def evenly(rows: int, count: int) -> list[int]:
    """Return the boundaries of pieces that differ by one row at most."""
    return [rows * index // count for index in range(count + 1)]


def _problem_of(gm: GraphModule, topology: Topology, homes: Mapping[str, frozenset[str]]) -> Problem:
    graph = semantic_graph(gm)
    replicable, pins = find_replicable(graph, homes), find_pins(graph, topology, homes)
    units = contract(graph, replicable, pins, grouped=True)
    return make_problem(graph, units, replicable, topology, homes)
