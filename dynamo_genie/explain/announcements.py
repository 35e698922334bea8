"""What the backend found, as log lines and as artifacts of torch's structured trace, where `tlparse` shows them."""

from __future__ import annotations

import logging

from torch.fx import GraphModule

from dynamo_genie.explain.plan_text import placement_lines
from dynamo_genie.explain.records import to_json
from dynamo_genie.explain.story import GraphStory
from dynamo_genie.observe import CallTraffic, GraphObserver
from dynamo_genie.passes.placement.plan import PlacementPlan
from dynamo_genie.passes.placement.topology import Topology
from dynamo_genie.passes.understanding import summary
from dynamo_genie.passes.understanding.analysis import Analysis
from dynamo_genie.torch_internals.compile_context import CompileId, trace_artifact

logger = logging.getLogger(__name__)


def log_is_on() -> bool:
    """Whether anybody reads the lines below."""
    return logger.isEnabledFor(logging.DEBUG) or summary.logger.isEnabledFor(logging.DEBUG)


class LogObserver(GraphObserver):
    """Logs phase and caches when a graph is compiled, where it runs when it is placed, and the bytes of each call.

    The pipeline logs its passes itself.
    """

    def __init__(self, story: GraphStory) -> None:
        self._story = story

    def captured(self, gm: GraphModule) -> None:
        logger.debug("%s: captured %d nodes", self._story.name, len(gm.graph.nodes))

    def analysed(self, gm: GraphModule, analysis: Analysis) -> None:
        self._story.analysed(gm, analysis)
        summary.log_summary(self._story.name, gm, analysis)

    def placed(self, gm: GraphModule, plan: PlacementPlan, topology: Topology, predicted: CallTraffic) -> None:
        if self._story.placed(plan, topology, predicted):
            for line in placement_lines(self._story.report().placements[-1]):
                logger.info("%s: %s", self._story.name, line)

    def called(self, plan: PlacementPlan, measured: CallTraffic) -> None:
        calls = self._story.called(plan, measured)
        if logger.isEnabledFor(logging.DEBUG):
            parts = (("sent", measured.sent), ("received", measured.received), ("between", measured.between))
            moved = ", ".join(f"{name} {sum(part.values()):,}" for name, part in parts)
            logger.debug("%s: call %d moved %s", self._story.name, calls, moved)


class TraceObserver(GraphObserver):
    """Puts the plan into torch's structured trace when a graph is analysed and whenever it is placed anew.

    The captured graph is there already, and calls are no part of a trace about compiling.
    """

    def __init__(self, story: GraphStory, compile_id: CompileId | None) -> None:
        self._story = story
        self._compile_id = compile_id

    def analysed(self, gm: GraphModule, analysis: Analysis) -> None:
        self._story.analysed(gm, analysis)
        self._trace("genie_analysis")

    def placed(self, gm: GraphModule, plan: PlacementPlan, topology: Topology, predicted: CallTraffic) -> None:
        if self._story.placed(plan, topology, predicted):
            self._trace("genie_plan")

    def _trace(self, name: str) -> None:
        trace_artifact(f"{name}_{self._story.name}", lambda: to_json(self._story.report()), self._compile_id)
