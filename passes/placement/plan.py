"""The placement plan, where each partition of a graph runs: data that is printed, dumped and executed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dynamo_genie.passes.placement.schedule import Schedule

Policy = Literal["semantic", "blind"]


@dataclass(frozen=True)
class Cut:
    """A value that crosses from one device to another, once per call; `nbytes` as in `Facts`."""

    value: str
    source: str
    target: str
    nbytes: int
    role: str


@dataclass(frozen=True)
class Partition:
    """Nodes that run together as one Program. Names are those of the graph's nodes.

    Attributes:
        index: Its place in an order in which partitions may be sent: it reads from earlier ones only.
        device: The name of its device.
        stage: Partitions of one stage read nothing from one another; they may run at the same time.
        nodes: Calls, in graph order; a cheap one may stand in several partitions.
        inputs: Placeholders, and values that other partitions make, in graph order.
        outputs: What other partitions read or the graph returns, in graph order. A value has one maker.
    """

    index: int
    device: str
    stage: int
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class DeviceLoad:
    """What a plan asks of one device: bytes that stay there, and the seconds that one call keeps it busy."""

    device: str
    weight_nbytes: int
    cache_nbytes: int
    busy_s: float


@dataclass(frozen=True)
class PlacementPlan:
    """Partitions in the order in which they are sent, what crosses between them, and what that should cost.

    Attributes:
        step_s: Predicted seconds of one call, on the critical path, transfers included.
        reasons: Why it is like this, for people.
        gathers: The device to which caches go from where they are made, and which will need all weights; None for none.
        schedule: The call from which `step_s` was simulated; None where a plan was made otherwise.
    """

    policy: Policy
    partitions: tuple[Partition, ...]
    cuts: tuple[Cut, ...]
    loads: tuple[DeviceLoad, ...]
    step_s: float
    reasons: tuple[str, ...] = ()
    gathers: str | None = None
    schedule: Schedule | None = None
