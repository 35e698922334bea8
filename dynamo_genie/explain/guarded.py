"""Tells several observers what happens, and lets none of their failures reach the computation they watch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from torch.fx import GraphModule

from dynamo_genie.observe import CallTraffic, GraphObserver
from dynamo_genie.passes.graphs.pipeline import PassRecord
from dynamo_genie.passes.placement.plan import PlacementPlan
from dynamo_genie.passes.placement.topology import Topology
from dynamo_genie.passes.understanding.analysis import Analysis

logger = logging.getLogger(__name__)

_FAILED = "a dump or log of a compiled graph failed and is given up; the computation goes on"


class Guarded(GraphObserver):
    """Observers of one graph; the first failure of one is logged, and it hears no more."""

    def __init__(self, makers: Iterable[Callable[[], GraphObserver]]) -> None:
        self._observers: list[GraphObserver] = []
        for make in makers:
            try:
                self._observers.append(make())
            except Exception:  # a full disk, say: the graph compiles all the same
                logger.warning(_FAILED, exc_info=True)

    def captured(self, gm: GraphModule) -> None:
        self._tell(lambda observer: observer.captured(gm))

    def passed(self, record: PassRecord, gm: GraphModule) -> None:
        self._tell(lambda observer: observer.passed(record, gm))

    def analysed(self, gm: GraphModule, analysis: Analysis) -> None:
        self._tell(lambda observer: observer.analysed(gm, analysis))

    def placed(self, gm: GraphModule, plan: PlacementPlan, topology: Topology, predicted: CallTraffic) -> None:
        self._tell(lambda observer: observer.placed(gm, plan, topology, predicted))

    def called(self, plan: PlacementPlan, measured: CallTraffic) -> None:
        self._tell(lambda observer: observer.called(plan, measured))

    def _tell(self, tell: Callable[[GraphObserver], None]) -> None:
        for observer in tuple(self._observers):
            try:
                tell(observer)
            except Exception:  # whatever it is, the computation goes on without this observer
                logger.warning(_FAILED, exc_info=True)
                self._observers = [other for other in self._observers if other is not observer]
