"""What `plan.json` holds, as typed records: the one description that text, report, log and command line are made from.

None stands where nothing is known.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from dynamo_genie.observe import EngineUse, PartSpan
from dynamo_genie.passes.placement.plan import Cut, Partition
from dynamo_genie.passes.placement.schedule import Schedule


@dataclass(frozen=True)
class CacheReport:
    """One KV cache: the graph's input that holds it before a call, the value that holds it after, and why."""

    kind: str
    before: str | None
    after: str
    nbytes: int | None
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class GroupReport:
    """Values that the report draws as one box: those of a layer or a co-location group, on one device."""

    name: str
    device: str
    n_nodes: int
    weight_nbytes: int
    cache_nbytes: int
    flops: int
    phase: str | None


@dataclass(frozen=True)
class DeviceReport:
    """What a plan puts on one device; `busy_s` is how long one call should keep it busy."""

    device: str
    memory_nbytes: int | None
    weight_nbytes: int
    cache_nbytes: int
    busy_s: float | None


@dataclass(frozen=True)
class Traffic:
    """Bytes by tensor class, and their sums: client to daemons, daemons to client, daemon to daemon."""

    sent: dict[str, int]
    received: dict[str, int]
    between: dict[str, int]

    @property
    def parts(self) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
        """The three ways, in the order in which all tables show them."""
        return self.sent, self.received, self.between

    @property
    def totals(self) -> tuple[int, ...]:
        """The three sums."""
        return tuple(sum(part.values()) for part in self.parts)

    @property
    def total(self) -> int:
        """Everything that moved."""
        return sum(self.totals)


@dataclass(frozen=True)
class Step:
    """One call: what should move, what did, and how long the call took until it returned."""

    predicted: Traffic
    measured: Traffic
    call_s: float


@dataclass(frozen=True)
class Measurements:
    """All calls under one placement so far.

    Attributes:
        last: The most recent call.
        predicted_nbytes: What all calls together should have moved.
        measured_nbytes: What they did move.
        median_call_s: From the call until it returned, without waiting for values nobody read yet.
        median_step_s: From one call to the next, whatever the program did in between included.
        engines: What ran each partition's program in the last call, and why.
        spans: When partitions ran in the last call, by the clocks of their daemons.
    """

    calls: int
    last: Step
    predicted_nbytes: int
    measured_nbytes: int
    median_call_s: float
    median_step_s: float | None
    engines: tuple[EngineUse, ...] = ()
    spans: tuple[PartSpan, ...] = ()


@dataclass(frozen=True)
class PlacementReport:
    """One way in which the graph was spread over devices, what a call should cost there and what it did."""

    policy: str
    partitions: tuple[Partition, ...]
    cuts: tuple[Cut, ...]
    devices: tuple[DeviceReport, ...]
    reasons: tuple[str, ...]
    predicted: Traffic
    predicted_step_s: float | None
    measured: Measurements | None = None
    schedule: Schedule | None = None


@dataclass(frozen=True)
class GraphReport:
    """Everything known of one compiled graph.

    Attributes:
        name: The name of its folder.
        kind: inference, forward or backward.
        residency: Bytes of the values that outlive a call, and of those that arrive with it, by residency.
        flops: Floating point operations of one call, a multiply-add counting two.
    """

    name: str
    compile_id: str
    kind: str
    phase: str | None
    phase_evidence: tuple[str, ...]
    n_nodes: int
    flops: int | None
    residency: dict[str, int]
    caches: tuple[CacheReport, ...]
    groups: tuple[GroupReport, ...] = ()
    placements: tuple[PlacementReport, ...] = field(default=())


_DECODER = msgspec.json.Decoder(GraphReport)


def to_json(report: GraphReport) -> str:
    """Return the text of `plan.json`."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n"


def from_json(text: str | bytes) -> GraphReport:
    """Return the report that `plan.json` holds."""
    return _DECODER.decode(text)
