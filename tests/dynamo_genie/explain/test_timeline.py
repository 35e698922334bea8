"""One call over time: lanes in order, other clocks aligned and said to be, and a picture that holds every bar."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from dynamo_genie.explain.plan_text import plan_text
from dynamo_genie.explain.records import from_json, to_json
from dynamo_genie.explain.timeline import Bar, Timeline, align, timeline_of
from dynamo_genie.explain.timeline_svg import LEFT, RIGHT, WIDTH, ticks, timeline_svg
from dynamo_genie.observe import PartSpan
from tests.dynamo_genie.explain.calls_over_time import SCHEDULE, SPANS, A, B, placement_of, report_of


def known_timeline(**changes: object) -> Timeline:
    timeline = timeline_of(placement_of(**changes))  # type: ignore[arg-type]
    assert timeline is not None
    return timeline


def spans_of(bars: tuple[Bar, ...]) -> list[tuple[str, float, float]]:
    return [(bar.what, round(bar.start_s, 6), round(bar.end_s, 6)) for bar in bars]


# --- lanes ---


def test_daemons_come_as_the_plan_lists_them_and_links_as_they_are_used() -> None:
    timeline = known_timeline()
    assert [lane.ends for lane in timeline.lanes] == [(A,), (B,), ("client", A), (A, B)]
    first, _, _, link = timeline.lanes
    assert spans_of(first.predicted) == [("partition 0", 0.002, 0.010), ("partition 2", 0.010, 0.015)]
    assert spans_of(first.measured) == [("partition 0", 0.003, 0.012), ("partition 2", 0.012, 0.016)]
    assert (spans_of(link.predicted), link.measured) == ([("h, 2.0 KiB", 0.010, 0.012)], ())
    assert timeline.end_s == 0.020


def test_a_call_of_which_one_side_alone_is_known_has_a_timeline_and_one_of_which_nothing_is_has_none() -> None:
    assert [len(lane.measured) for lane in known_timeline(spans=None).lanes] == [0, 0, 0, 0]
    measured = known_timeline(schedule=None)
    assert [(len(lane.predicted), len(lane.measured)) for lane in measured.lanes] == [(0, 2), (0, 1)]
    assert timeline_of(placement_of(schedule=None, spans=None)) is None


def test_a_report_with_times_survives_its_file() -> None:
    report = report_of(placement_of())
    assert from_json(to_json(report)) == report


# --- clocks ---


def test_the_spans_of_another_clock_keep_their_distances_and_begin_as_predicted() -> None:
    late = (*SPANS, PartSpan(3, B, 5.010, 5.011, False))
    found, words = align(placement_of(spans=late))
    assert [(s.partition, round(s.start_s, 6), round(s.end_s, 6)) for s in found if s.device == B] == [
        (1, 0.013, 0.018),
        (3, 0.022, 0.023),
    ]
    assert [span for span in found if span.device == A] == [SPANS[0], SPANS[2]]
    assert list(words) == [B]
    assert "partition 1, begins where it was predicted to begin" in words[B]


def test_without_a_prediction_another_clock_begins_with_the_call() -> None:
    found, words = align(placement_of(schedule=None))
    assert [round(span.start_s, 6) for span in found if span.device == B] == [0.0]
    assert words[B].endswith("begins at the beginning of the call.")


def test_one_clock_is_left_as_it_is_and_nothing_is_said() -> None:
    same = tuple(replace(span, same_clock=True) for span in SPANS)
    assert align(placement_of(spans=same)) == (same, {})
    assert not any("clock" in remark for remark in known_timeline(spans=same).remarks)


def test_the_text_says_when_each_part_ran_and_what_was_moved() -> None:
    text = plan_text(report_of(placement_of()))
    for line in (
        f"{A} predicted: partition 2, 10 ms to 15 ms",
        f"{A} measured: partition 2, 12 ms to 16 ms",
        f"{A} -> {B} predicted: h, 2.0 KiB, 10 ms to 12 ms",
        f"The clock of {B} is not the client's",
    ):
        assert line in text


# --- the picture ---


def test_every_bar_is_drawn_where_its_time_is() -> None:
    picture = timeline_svg(known_timeline(), [A, B])
    bars = re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"[^>]*></rect>\s*<title>([^<]*)</title>', picture)
    assert len(bars) == 2 + 2 + 1 + 1 + 1 + 1  # A and B predicted and measured, two links
    scale = (WIDTH - LEFT - RIGHT) / 0.020
    where = {title: (float(x), float(width)) for x, width, title in bars}
    x, width = where["partition 0: 2 ms to 10 ms (predicted)"]
    assert (x, width) == (pytest.approx(LEFT + 0.002 * scale, abs=0.1), pytest.approx(0.008 * scale, abs=0.1))
    assert "partition 0: 3 ms to 12 ms (measured)" in where
    assert all(x + width <= WIDTH for x, width in where.values())


def test_predicted_stands_above_measured_and_links_are_named_by_letters() -> None:
    picture = timeline_svg(known_timeline(), [A, B])
    kinds = re.findall(r'<g class="lane (\w+)( device-\d)?">', picture)
    assert [kind for kind, _ in kinds] == ["predicted", "measured"] * 2 + ["predicted"] * 2
    assert [colour.strip() for _, colour in kinds] == ["device-0"] * 2 + ["device-1"] * 2 + ["", "device-0"]
    names = re.findall(r'<text class="name"[^>]*>([^<]*)</text>', picture)
    assert names == [f"A  {A}", f"B  {B}", "client → A", "A → B"]


def test_names_are_escaped() -> None:
    transfer = replace(SCHEDULE.transfers[0], value="<script>")
    picture = timeline_svg(known_timeline(schedule=replace(SCHEDULE, transfers=(transfer,))), [A, B])
    assert "<script>" not in picture and "&lt;script&gt;" in picture


@pytest.mark.parametrize(
    ("end_s", "expected"),
    [
        (0.020, [0.0, 0.005, 0.010, 0.015, 0.020]),
        (1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (8.1, [0.0, 2.0, 4.0, 6.0, 8.0]),
        (0.0, [0.0]),
    ],
)
def test_ticks_are_few_and_round(end_s: float, expected: list[float]) -> None:
    assert list(ticks(end_s)) == pytest.approx(expected)
