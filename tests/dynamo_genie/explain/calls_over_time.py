"""A call on two daemons whose times are known, for the tests of what shows them."""

from __future__ import annotations

from dataclasses import replace

from dynamo_genie.explain.records import DeviceReport, GraphReport, Measurements, PlacementReport, Step, Traffic
from dynamo_genie.observe import PartSpan
from dynamo_genie.passes.placement.plan import Cut, Partition
from dynamo_genie.passes.placement.schedule import Schedule, ScheduledPart, ScheduledTransfer

A, B = "tcp://a:1", "tcp://b:2"

SCHEDULE = Schedule(
    parts=(ScheduledPart(0, A, 0.002, 0.010), ScheduledPart(1, B, 0.013, 0.020), ScheduledPart(2, A, 0.010, 0.015)),
    transfers=(
        ScheduledTransfer("x", "client", A, 1000, 0.0, 0.001, 0.002, None, (0,)),
        ScheduledTransfer("h", A, B, 2048, 0.010, 0.012, 0.013, 0, (1,)),
    ),
)
"""Partition 0 hands h on to partition 1, and 2 follows on its own daemon at once."""

SPANS = (
    PartSpan(0, A, 0.003, 0.012, True),
    PartSpan(1, B, 5.001, 5.006, False),
    PartSpan(2, A, 0.012, 0.016, True),
)
"""The same call as the daemons saw it; that on B has a clock of its own."""


def placement_of(schedule: Schedule | None = SCHEDULE, spans: tuple[PartSpan, ...] | None = SPANS) -> PlacementReport:
    """A placement; without spans it has not been called."""
    nothing = Traffic({}, {}, {})
    called = Measurements(1, Step(nothing, nothing, 0.02), 0, 0, 0.02, None, (), spans or ())
    return PlacementReport(
        policy="semantic",
        partitions=tuple(Partition(i, device, 0, (), (), ()) for i, device in enumerate((A, B, A))),
        cuts=(Cut("h", A, B, 2048, "activation"),),
        devices=tuple(DeviceReport(device, None, 0, 0, None) for device in (A, B)),
        reasons=(),
        predicted=nothing,
        predicted_step_s=0.02,
        measured=called if spans is not None else None,
        schedule=schedule,
    )


def report_of(*placements: PlacementReport, name: str = "0_0_inference") -> GraphReport:
    """The report of a graph with these placements."""
    empty = GraphReport(name, "0/0", "inference", None, (), 3, None, {}, ())
    return replace(empty, placements=placements)
