"""The pass pipeline: runs passes over a graph in the order in which they are listed, checks and reports each.

A rewrite changes the graph; an analysis looks at it and returns facts, which are added to the nodes here. What
neither may do stands in `invariants`.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch.fx import GraphModule, Node
from torch.fx.passes.infra.pass_base import PassResult

from dynamo_genie.passes.graphs.invariants import BrokenInvariant, Snapshot, check_graph, check_untouched, check_values
from dynamo_genie.passes.graphs.semantics import Facts, annotate

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pass:
    """A named rewrite: takes a graph, returns it (or another) and whether it changed."""

    name: str
    run: Callable[[GraphModule], PassResult]


@dataclass(frozen=True)
class AnalysisPass:
    """A named look at a graph: returns what it found out about nodes, and changes nothing."""

    name: str
    run: Callable[[GraphModule], Mapping[Node, Facts]]


@dataclass(frozen=True)
class PassRecord:
    """The record of one pass; `operators` counts, by name, the calls that appeared (+) or vanished (-)."""

    name: str
    modified: bool
    duration_s: float
    n_nodes_before: int
    n_nodes_after: int
    operators: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class PipelineResult:
    """The graph after the last pass, and one record a pass."""

    gm: GraphModule
    records: tuple[PassRecord, ...]


Observer = Callable[[PassRecord, GraphModule], None]


def run_passes(
    gm: GraphModule, passes: Sequence[Pass | AnalysisPass], observe: Observer | None = None
) -> PipelineResult:
    """Run `passes` in order, check the graph after each, and call `observe` (a dump, say) with what it did.

    Raises:
        BrokenInvariant: A pass broke the graph, changed a value or contradicted a fact.
    """
    records: list[PassRecord] = []
    before = Snapshot.of(gm)
    for step in passes:
        started = time.perf_counter()
        gm, modified, after = _rewritten(gm, step, before) if isinstance(step, Pass) else _annotated(gm, step, before)
        record = _record(step.name, modified, time.perf_counter() - started, _count(before), _count(after))
        logger.debug("%s: %d -> %d nodes %s", step.name, record.n_nodes_before, record.n_nodes_after, record.operators)
        records.append(record)
        if observe is not None:
            observe(record, gm)
        before = after
    return PipelineResult(gm, tuple(records))


def _rewritten(gm: GraphModule, step: Pass, before: Snapshot) -> tuple[GraphModule, bool, Snapshot]:
    result = step.run(gm)
    check_graph(step.name, result.graph_module)
    after = Snapshot.of(result.graph_module)
    check_values(step.name, before, after)
    return result.graph_module, result.modified, after


def _annotated(gm: GraphModule, step: AnalysisPass, before: Snapshot) -> tuple[GraphModule, bool, Snapshot]:
    facts = step.run(gm)
    after = Snapshot.of(gm)
    check_untouched(step.name, before, after)
    try:
        learned = annotate(facts)
    except ValueError as error:
        raise BrokenInvariant(f"pass '{step.name}' contradicts an earlier one: {error}") from None
    return gm, learned, after.with_facts()


def _count(graph: Snapshot) -> Counter[str]:
    calls = ((str(op), target) for op, target, *_ in graph.calls.values())
    return Counter(str(getattr(target, "__name__", target)) if op == "call_function" else op for op, target in calls)


def _record(name: str, modified: bool, duration_s: float, before: Counter[str], after: Counter[str]) -> PassRecord:
    changes = {key: after[key] - before[key] for key in sorted(before.keys() | after.keys())}
    operators = tuple((key, change) for key, change in changes.items() if change)
    return PassRecord(name, modified, duration_s, before.total(), after.total(), operators)
