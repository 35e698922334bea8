"""Runs passes over a graph in the order in which they are listed, and reports what each one did."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassResult

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pass:
    """A named step: takes a graph, returns it (or another) and whether it changed."""

    name: str
    run: Callable[[GraphModule], PassResult]


@dataclass(frozen=True)
class PassRecord:
    """What one pass did; `operators` counts, by name, the calls that appeared (+) or vanished (-)."""

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


def run_passes(gm: GraphModule, passes: Sequence[Pass], observe: Observer | None = None) -> PipelineResult:
    """Run `passes` in order, check the graph after each, and call `observe` (a dump, say) with what it did."""
    records: list[PassRecord] = []
    for step in passes:
        before = _count(gm)
        started = time.perf_counter()
        result = step.run(gm)
        duration_s = time.perf_counter() - started
        gm = result.graph_module
        gm.graph.lint()
        record = _record(step.name, result.modified, duration_s, before, _count(gm))
        logger.debug("%s: %d -> %d nodes %s", step.name, record.n_nodes_before, record.n_nodes_after, record.operators)
        records.append(record)
        if observe is not None:
            observe(record, gm)
    return PipelineResult(gm, tuple(records))


def _count(gm: GraphModule) -> Counter[str]:
    return Counter(
        str(getattr(node.target, "__name__", node.target)) if node.op == "call_function" else node.op
        for node in gm.graph.nodes
    )


def _record(name: str, modified: bool, duration_s: float, before: Counter[str], after: Counter[str]) -> PassRecord:
    changes = {key: after[key] - before[key] for key in sorted(before.keys() | after.keys())}
    operators = tuple((key, change) for key, change in changes.items() if change)
    return PassRecord(name, modified, duration_s, before.total(), after.total(), operators)
