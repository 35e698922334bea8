"""A watched graph: an observer learns what a call should move and did move, and the call is the same as ever."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from dynamo_genie.calls.watched import Watched
from dynamo_genie.observe import CallTraffic
from dynamo_genie.passes.placement.plan import PlacementPlan
from dynamo_genie.passes.placement.topology import Topology
from dynamo_genie.runtime.wire import messages as m
from tests.dynamo_genie.calls.stub_daemon import Called, graph_of

PLAN = PlacementPlan("semantic", (), (), (), 0.25)


class Observer:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.predicted: list[CallTraffic] = []
        self.measured: list[CallTraffic] = []

    def placed(self, gm: Any, plan: PlacementPlan, topology: Topology, predicted: CallTraffic) -> None:
        assert plan is PLAN
        self.predicted.append(predicted)

    def called(self, plan: PlacementPlan, measured: CallTraffic) -> None:
        assert plan is PLAN
        self.measured.append(measured)


def step(weight: torch.Tensor, x: torch.Tensor, cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    result = weight @ x
    cache.add_(1)
    return result, torch.cat([cache, x])


def watched() -> tuple[Called, Watched, Observer]:
    called = Called(graph_of(step, torch.ones(4, 4), torch.ones(4), torch.ones(4)), resident=[0])
    called.placement.planned = PLAN, Topology((), ())
    observer: Any = Observer()
    return called, Watched(called.graph, called.gm, observer), observer


WEIGHT = torch.ones(4, 4)


def test_every_call_moves_to_the_byte_what_was_predicted() -> None:
    _, run, observer = watched()
    for _ in range(3):
        run([WEIGHT, torch.ones(4), torch.ones(4)])
    assert len(observer.measured) == 3
    for predicted, measured in zip(observer.predicted, observer.measured, strict=True):
        assert +Counter(predicted.sent) == +Counter(measured.sent)
        assert +Counter(predicted.received) == +Counter(measured.received)
        assert predicted.wall_s == 0.25
    assert observer.measured[-1].received["output"] == 16  # the cache, written


def test_each_call_tells_when_its_own_part_ran() -> None:
    called, run, observer = watched()
    called.graph([WEIGHT, torch.ones(4), torch.ones(4)])  # not watched: the span of this call is nobody's
    for _ in range(2):
        run([WEIGHT, torch.ones(4), torch.ones(4)])
    for measured in observer.measured:
        [span] = measured.spans
        assert (span.partition, span.device, span.same_clock) == (0, "stub", True)
        assert 0 <= span.start_s < span.end_s
    assert observer.predicted[0].spans == ()


def test_watching_changes_nothing_that_a_call_posts() -> None:
    plain, _, _ = watched()
    seen, run, _ = watched()
    for call in (plain.graph, run):
        for _ in range(2):
            call([WEIGHT, torch.ones(4), torch.ones(4)])
    asides = (m.Inspect, m.Free)  # what died goes with the next message, and watching makes some of its own
    posted = [[type(c) for c in worker.commands if not isinstance(c, asides)] for worker in (plain.worker, seen.worker)]
    assert posted[0] == posted[1]
    assert [call.inputs for call in plain.worker.of(m.Call)] == [call.inputs for call in seen.worker.of(m.Call)]


def test_a_prediction_that_fails_is_logged_and_the_call_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise IndexError("pop from an empty deque")

    monkeypatch.setattr("dynamo_genie.calls.watched.predict_call", broken)
    called, run, observer = watched()
    run([WEIGHT, torch.ones(4), torch.ones(4)])
    assert "could not be predicted" in caplog.text
    assert len(called.worker.of(m.Call)) == 1
    assert (dict(observer.predicted[0].sent), len(observer.measured)) == ({}, 1)
