"""Collects what an observer is told about one graph, and turns it into a `GraphReport`. Any thread may tell."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field

from torch.fx import GraphModule

from dynamo_genie.explain.contraction import Picture, contract
from dynamo_genie.explain.records import (
    CacheReport,
    DeviceReport,
    GraphReport,
    Measurements,
    PlacementReport,
    Step,
    Traffic,
)
from dynamo_genie.observe import CallTraffic, EngineUse, PartSpan
from dynamo_genie.passes.graphs.semantics import facts_of, nbytes_of
from dynamo_genie.passes.placement.plan import PlacementPlan
from dynamo_genie.passes.placement.schedule import Schedule
from dynamo_genie.passes.placement.topology import Topology
from dynamo_genie.passes.understanding.analysis import Analysis
from dynamo_genie.passes.understanding.kv_cache import KVCache

KEPT_TIMES = 4096
"""So many of the latest calls enter the medians."""


@dataclass
class _Placement:
    """What happened under one plan."""

    plan: PlacementPlan
    topology: Topology
    predicted: CallTraffic
    calls: int = 0
    last: Step | None = None
    engines: tuple[EngineUse, ...] = ()
    spans: tuple[PartSpan, ...] = ()
    predicted_nbytes: int = 0
    measured_nbytes: int = 0
    called_at: float | None = None
    calls_s: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT_TIMES))
    steps_s: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT_TIMES))


class GraphStory:
    """The story of one graph so far."""

    def __init__(self, name: str, compile_id: str, kind: str) -> None:
        self.name, self.compile_id, self.kind = name, compile_id, kind
        self._lock = threading.Lock()
        self._graph: GraphModule | None = None
        self._analysis: Analysis | None = None
        self._placements: list[_Placement] = []

    def analysed(self, gm: GraphModule, analysis: Analysis) -> None:
        """Remember the graph and what was found in it."""
        self._graph, self._analysis = gm, analysis

    def placed(self, plan: PlacementPlan, topology: Topology, predicted: CallTraffic) -> bool:
        """Note what the next call under `plan` should move; say whether the plan is new."""
        with self._lock:
            known = self._find(plan)
            if known is None:
                self._placements.append(_Placement(plan, topology, predicted))
            else:
                known.predicted = predicted
            return known is None

    def called(self, plan: PlacementPlan, measured: CallTraffic) -> int:
        """Note a call; return how many there were under this plan."""
        with self._lock:
            known = self._find(plan)
            assert known is not None, "a call follows its placement"
            step = Step(_traffic(known.predicted), _traffic(measured), measured.wall_s)
            now = time.perf_counter()
            if known.called_at is not None:
                known.steps_s.append(now - known.called_at)
            known.called_at = now
            known.calls += 1
            known.last = step
            known.engines, known.spans = measured.engines, measured.spans
            known.predicted_nbytes += step.predicted.total
            known.measured_nbytes += step.measured.total
            known.calls_s.append(step.call_s)
            return known.calls

    def picture(self) -> Picture | None:
        """The graph as boxes, with the devices of the latest placement."""
        if self._graph is None:
            return None
        with self._lock:
            partitions = self._placements[-1].plan.partitions if self._placements else ()
        return contract(self._graph, {name: part.device for part in reversed(partitions) for name in part.nodes})

    def report(self) -> GraphReport:
        """Everything known so far."""
        graph, analysis, picture = self._graph, self._analysis, self.picture()
        assert graph is not None and analysis is not None and picture is not None
        with self._lock:
            placements = tuple(map(_placement_report, self._placements))
        return GraphReport(
            name=self.name,
            compile_id=self.compile_id,
            kind=self.kind,
            phase=analysis.phase.value,
            phase_evidence=analysis.phase_evidence,
            n_nodes=len(graph.graph.nodes),
            flops=_flops(graph),
            residency=_residency(graph),
            caches=tuple(map(_cache_report, analysis.caches)),
            groups=tuple(box.report for box in picture.boxes),
            placements=placements,
        )

    def _find(self, plan: PlacementPlan) -> _Placement | None:
        return next((known for known in self._placements if known.plan is plan or known.plan == plan), None)


def _placement_report(known: _Placement) -> PlacementReport:
    plan = known.plan
    memory = {device.name: device.memory_nbytes for device in known.topology.devices}
    return PlacementReport(
        policy=plan.policy,
        partitions=plan.partitions,
        cuts=plan.cuts,
        devices=tuple(
            DeviceReport(
                load.device, memory.get(load.device), load.weight_nbytes, load.cache_nbytes, known_s(load.busy_s)
            )
            for load in plan.loads
        ),
        reasons=plan.reasons,
        predicted=_traffic(known.predicted),
        predicted_step_s=known_s(plan.step_s),
        measured=_measurements(known),
        schedule=_known_schedule(plan.schedule),
    )


def _measurements(known: _Placement) -> Measurements | None:
    if known.last is None:
        return None
    return Measurements(
        calls=known.calls,
        last=known.last,
        predicted_nbytes=known.predicted_nbytes,
        measured_nbytes=known.measured_nbytes,
        median_call_s=statistics.median(known.calls_s),
        median_step_s=statistics.median(known.steps_s) if known.steps_s else None,
        engines=known.engines,
        spans=known.spans,
    )


def known_s(seconds: float) -> float | None:
    """Return seconds, or None where they are not a number: a device whose speed nobody measured."""
    return seconds if math.isfinite(seconds) else None


def _known_schedule(schedule: Schedule | None) -> Schedule | None:
    """Return a schedule, or None where its times are no numbers."""
    parts = schedule.parts if schedule is not None else ()
    return schedule if all(math.isfinite(part.end_s) for part in parts) else None


def _traffic(traffic: CallTraffic) -> Traffic:
    parts = (traffic.sent, traffic.received, traffic.between)
    return Traffic(*({name: part[name] for name in sorted(part) if part[name]} for part in parts))


def _flops(gm: GraphModule) -> int | None:
    known = [flops for node in gm.graph.nodes if (flops := facts_of(node).flops) is not None]
    return sum(known) if known else None


def _residency(gm: GraphModule) -> dict[str, int]:
    """Sum the inputs of a graph by how long they stay, and its results under "result"."""
    found: Counter[str] = Counter()
    for node in gm.graph.nodes:
        residency = facts_of(node).residency
        if node.op in ("placeholder", "get_attr") and residency is not None:
            found[residency.value] += facts_of(node).nbytes or nbytes_of(node) or 0
    return dict(sorted(found.items()))


def _cache_report(cache: KVCache) -> CacheReport:
    return CacheReport(
        kind=cache.kind.value,
        before=cache.before.name if cache.before is not None else None,
        after=cache.after.name,
        nbytes=nbytes_of(cache.after),
        evidence=cache.evidence,
    )
