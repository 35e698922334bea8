"""A trace of calls keeps the rules of the trace event format, and says what the report says."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from typing import Any

import pytest

from dynamo_genie.explain.chrome_trace import chrome_trace
from dynamo_genie.passes.placement.schedule import Schedule, ScheduledPart, ScheduledTransfer
from tests.dynamo_genie.explain.calls_over_time import A, B, placement_of, report_of

Event = dict[str, Any]

FIELDS = {
    "X": {"name", "cat", "ph", "ts", "dur", "pid", "tid", "args"},
    "M": {"name", "ph", "pid", "tid", "args"},
    "s": {"name", "cat", "ph", "ts", "pid", "tid", "id"},
    "t": {"name", "cat", "ph", "ts", "pid", "tid", "id"},
    "f": {"name", "cat", "ph", "ts", "pid", "tid", "id", "bp"},
}
"""What an event of each phase must have, and has."""


def events_of(*reports: Any) -> list[Event]:
    document = json.loads(chrome_trace(reports))
    assert document.keys() == {"traceEvents", "displayTimeUnit"}
    assert document["displayTimeUnit"] in ("ms", "ns")
    return list(document["traceEvents"])


def of(events: list[Event], *phases: str) -> list[Event]:
    return [event for event in events if event["ph"] in phases]


def process_names(events: list[Event]) -> dict[int, str]:
    return {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}


def thread_names(events: list[Event]) -> dict[tuple[int, int], str]:
    return {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}


def ns(microseconds: float) -> int:
    return round(microseconds * 1000)


def awkward() -> Schedule:
    """Times that no float holds, one right behind the other, and a value that takes no time at all."""
    times = [number / 3 * 1e-3 for number in range(8)]
    parts = tuple(ScheduledPart(i, A, times[i], times[i + 1]) for i in range(7))
    transfers = tuple(
        ScheduledTransfer(f"v{i}", "client", A, 0, times[i] / 7, times[i] / 7, times[i], None, (i,)) for i in range(7)
    )
    return Schedule(parts, transfers)


EVENTS = {
    "both": lambda: events_of(report_of(placement_of())),
    "predicted": lambda: events_of(report_of(placement_of(spans=None))),
    "measured": lambda: events_of(report_of(placement_of(schedule=None))),
    "two graphs": lambda: events_of(report_of(placement_of()), report_of(placement_of(), name="0_1_inference")),
    "awkward": lambda: events_of(report_of(placement_of(awkward(), None))),
}


@pytest.fixture(params=EVENTS)
def events(request: pytest.FixtureRequest) -> list[Event]:
    return EVENTS[request.param]()


# --- the rules of the format ---


def test_each_event_has_what_its_phase_wants_and_numbers_where_numbers_belong(events: list[Event]) -> None:
    assert events
    for event in events:
        assert event.keys() == FIELDS[event["ph"]]
        assert isinstance(event["name"], str) and event["name"]
        assert all(type(event[key]) is int for key in ("pid", "tid", "id") if key in event)
        assert all(isinstance(event[key], int | float) and event[key] >= 0 for key in ("ts", "dur") if key in event)


def test_every_thread_and_process_that_something_happens_in_is_named_once(events: list[Event]) -> None:
    happened = of(events, "X", "s", "t", "f")
    assert {(e["pid"], e["tid"]) for e in happened} == thread_names(events).keys()
    assert {e["pid"] for e in happened} == process_names(events).keys()
    metadata = [(e["name"], e["pid"], e["tid"]) for e in of(events, "M")]
    assert len(metadata) == len(set(metadata))
    assert len(set(process_names(events).values())) == len(process_names(events))


def test_what_happens_in_one_thread_does_not_overlap(events: list[Event]) -> None:
    threads: dict[tuple[int, int], list[Event]] = defaultdict(list)
    for event in of(events, "X"):
        threads[event["pid"], event["tid"]].append(event)
    for own in threads.values():
        for first, second in pairwise(sorted(own, key=lambda e: (e["ts"], e["ts"] + e["dur"]))):
            assert ns(first["ts"]) + ns(first["dur"]) <= ns(second["ts"])


def test_each_flow_starts_once_ends_once_goes_forward_and_is_bound_to_what_happens(events: list[Event]) -> None:
    flows: dict[int, list[Event]] = defaultdict(list)
    for event in of(events, "s", "t", "f"):
        flows[event["id"]].append(event)
    for own in flows.values():
        phases = [event["ph"] for event in own]
        assert (phases[0], phases[-1], set(phases[1:-1]) <= {"t"}) == ("s", "f", True)
        assert len({(event["name"], event["cat"]) for event in own}) == 1
        assert own == sorted(own, key=lambda event: event["ts"])
        assert own[-1]["bp"] == "e"
        for event in own:
            assert any(runs_at(slice_, event) for slice_ in of(events, "X"))


def runs_at(slice_: Event, event: Event) -> bool:
    begin, end, at = ns(slice_["ts"]), ns(slice_["ts"]) + ns(slice_["dur"]), ns(event["ts"])
    same = (slice_["pid"], slice_["tid"]) == (event["pid"], event["tid"])
    return same and (begin <= at < end or begin == at == end)


# --- what it says ---


def test_predicted_and_measured_are_processes_of_their_own_with_a_thread_for_each_link() -> None:
    events = events_of(report_of(placement_of()))
    assert list(process_names(events).values()) == [
        f"0_0_inference predicted: {A}",
        f"0_0_inference predicted: {B}",
        "0_0_inference predicted: client",
        f"0_0_inference measured: {A}",
        f"0_0_inference measured: {B}",
    ]
    assert list(thread_names(events).items()) == [
        ((1, 1), "partitions"),
        ((2, 1), "partitions"),
        ((3, 1), f"to {A}"),
        ((1, 2), f"to {B}"),
        ((4, 1), "partitions"),
        ((5, 1), "partitions"),
    ]


def test_times_are_those_of_the_schedule_and_of_the_spans_in_microseconds() -> None:
    events = events_of(report_of(placement_of()))
    found = {(e["pid"], e["tid"], e["name"]): (e["ts"], e["dur"]) for e in of(events, "X")}
    assert found == {
        (1, 1, "partition 0"): (2000, 8000),
        (1, 1, "partition 2"): (10000, 5000),
        (2, 1, "partition 1"): (13000, 7000),
        (3, 1, "x"): (0, 1000),
        (1, 2, "h"): (10000, 2000),
        (4, 1, "partition 0"): (3000, 9000),
        (4, 1, "partition 2"): (12000, 4000),
        (5, 1, "partition 1"): (13000, 5000),
    }


def test_a_value_flows_from_its_maker_over_the_link_to_its_reader() -> None:
    flow = [e for e in events_of(report_of(placement_of())) if e["name"] == "h" and e["ph"] in "stf"]
    assert [(e["ph"], e["pid"], e["tid"], e["ts"]) for e in flow] == [
        ("s", 1, 1, 9999.999),
        ("t", 1, 2, 10000),
        ("f", 2, 1, 13000),
    ]


def test_a_daemon_whose_clock_was_aligned_says_so() -> None:
    labels = [e for e in events_of(report_of(placement_of())) if e["name"] == "process_labels"]
    assert [(e["pid"], B in e["args"]["labels"]) for e in labels] == [(5, True)]


def test_graphs_without_a_placement_are_left_out_and_no_graph_is_a_trace_too() -> None:
    assert events_of(report_of()) == events_of() == []
