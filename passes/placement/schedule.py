"""The schedule of a call, when each partition runs and each value crosses: what the step time was simulated from.

Plain data; `step_time.simulate` makes it. Seconds count from the beginning of the call.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ScheduledPart:
    """A partition at work: `index` is its place in the plan."""

    index: int
    device: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class ScheduledTransfer:
    """A value on its way from one end to another; the client is an end, too.

    Attributes:
        start_s: When its first byte goes onto the link.
        end_s: When the link has taken its last byte and is free for the next value.
        arrives_s: When it can be read at its target, the latency of the link later.
        maker: The index of the partition that makes it; None for an input of the call.
        readers: The indices of the partitions that wait for it.
    """

    value: str
    source: str
    target: str
    nbytes: int
    start_s: float
    end_s: float
    arrives_s: float
    maker: int | None
    readers: tuple[int, ...]


@dataclass(frozen=True)
class Schedule:
    """One call: its partitions in the order of the plan, and the transfers in the order in which they are posted."""

    parts: tuple[ScheduledPart, ...]
    transfers: tuple[ScheduledTransfer, ...]
