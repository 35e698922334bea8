"""The pipeline of a graph for one call's sizes: the best that is proposed, and proved to give the same bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch.fx import GraphModule

from dynamo_genie.calls.certified import refuted
from dynamo_genie.connections.fleet import Fleet
from dynamo_genie.engines import AUTO
from dynamo_genie.errors import QuotaExceeded
from dynamo_genie.options import Options
from dynamo_genie.passes.graphs.semantics import Phase, facts_of
from dynamo_genie.passes.graphs.shared_memory import has_views_among_results
from dynamo_genie.passes.pipelines.pipeline import propose_pipelines
from dynamo_genie.passes.pipelines.seeds import find_seeds, has_past
from dynamo_genie.passes.placement.placement import place
from dynamo_genie.passes.placement.plan import PlacementPlan
from dynamo_genie.passes.placement.topology import Topology
from dynamo_genie.passes.rows.numbers import has_symbols, with_numbers
from dynamo_genie.passes.rows.template import CannotCut

_EXACT_ENGINES = (AUTO, "eager")


def may_pipeline(gm: GraphModule, options: Options) -> bool:
    """Say whether calls of a graph may be cut in pieces at all.

    In training they stay whole: the gradient of a weight is a sum over all rows, whose order pieces would change. So do
    calls that go on from a cache and whose sizes are symbolic: decoding, whose every step has other sizes.
    """
    if options.pipeline == "off" or not options.mode.understood or options.placement == "blind":
        return False
    phases = {facts_of(node).phase for node in gm.graph.nodes}
    return Phase.TRAINING_FORWARD not in phases and not (has_symbols(gm) and has_past(gm))


def pipelined(
    gm: GraphModule,
    args: Sequence[Any],
    whole: PlacementPlan,
    topology: Topology,
    homes: Mapping[str, frozenset[str]],
    fleet: Fleet,
    options: Options,
) -> tuple[GraphModule, PlacementPlan]:
    """Return the graph and the plan for a call: in pieces if that is worth it and gives the same bits, else as planned.

    Args:
        gm: The graph; its sizes may be symbolic.
        args: The arguments of the call.
        whole: The plan without pieces.
        homes: Where its inputs are, as for placement.
    """
    if options.exact and options.engine not in _EXACT_ENGINES:
        return gm, _because(whole, (f"not in pieces: engine {options.engine!r} may give pieces other bits",))
    if has_views_among_results(gm):
        return gm, _because(whole, ("not in pieces: results share memory, and would each have their own",))
    try:
        sized = with_numbers(gm, args) if has_symbols(gm) else gm
    except CannotCut as why:
        return gm, _because(whole, (f"not in pieces: {why}",))
    timed = whole if sized is gm else _timed(whole, sized, topology, homes)
    proposals = propose_pipelines(sized, topology, homes, timed)
    reasons = list(proposals.reasons)
    for pipeline in proposals.pipelines:
        wrong = refuted(pipeline, fleet) if options.exact else ()
        if not wrong:
            saved = 1 - pipeline.plan.step_s / timed.step_s
            words = (f"{saved:.0%} shorter than {timed.step_s * 1e3:.3f} ms as a whole", *reasons)
            return pipeline.cut.gm, _because(pipeline.plan, words)
        reasons += [f"other bits in pieces: {kernel}" for kernel in wrong]
    return gm, _because(whole, reasons)


def _timed(
    whole: PlacementPlan, sized: GraphModule, topology: Topology, homes: Mapping[str, frozenset[str]]
) -> PlacementPlan:
    """Return a plan with the time of a call of these sizes: it was made for those of the call that was traced."""
    if not find_seeds(sized):
        return whole
    try:
        now = place(sized, topology, homes=homes)
    except QuotaExceeded:  # the daemons will say so, if it is true
        return whole
    return replace(whole, step_s=now.step_s)


def _because(plan: PlacementPlan, reasons: Sequence[str]) -> PlacementPlan:
    return replace(plan, reasons=(*plan.reasons, *reasons))
