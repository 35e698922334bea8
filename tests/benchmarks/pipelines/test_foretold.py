"""A call simulated again with measured parts: the same simulation, other times."""

from __future__ import annotations

import pytest

from dynamo_genie.bench.pipelines.foretold import simulated_s
from dynamo_genie.observe import PartSpan
from dynamo_genie.passes.placement.schedule import Schedule, ScheduledPart, ScheduledTransfer

LATENCY_S = 0.5
PART_S = 50e-6
"""What starting a part takes beside its work, in the simulation."""


def spans(*seconds: float) -> tuple[PartSpan, ...]:
    return tuple(PartSpan(index, "", 7.0, 7.0 + each, same_clock=True) for index, each in enumerate(seconds))


def crossing(value: str, maker: int, reader: int) -> ScheduledTransfer:
    return ScheduledTransfer(value, "a", "b", 1000, 1.0, 2.0, 2.0 + LATENCY_S, maker, (reader,))


SCHEDULE = Schedule(
    tuple(ScheduledPart(index, device, 0.0, 1.0) for index, device in enumerate("abab")),
    (
        ScheduledTransfer("ids", "client", "a", 10, 0.0, 0.0, 0.0, None, (0, 2)),
        crossing("first", 0, 1),
        crossing("second", 2, 3),
    ),
)
"""Two pieces in two stages: 0 and 2 on `a`, then 1 and 3 on `b`; a value crosses in a second."""


def test_stages_work_at_the_same_time_and_wait_for_what_crosses() -> None:
    # a: 0 to 3, 3 to 6; first crosses 3 to 4 and is there at 4.5, second 6 to 7 and 7.5; b: 4.5 to 5.5, 7.5 to 8.5
    assert simulated_s(SCHEDULE, spans(3, 1, 3, 1)) == pytest.approx(8.5 + 3 * PART_S, abs=2e-4)


def test_the_longer_stage_decides() -> None:
    # a: 0 to 1, 1 to 2; b: 2.5 to 7.5, then at once 7.5 to 12.5
    assert simulated_s(SCHEDULE, spans(1, 5, 1, 5)) == pytest.approx(12.5 + 3 * PART_S, abs=2e-4)
