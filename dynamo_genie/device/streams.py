"""Streams and events of the device: a daemon runs what a session sends in order, so there is one stream, always.

A program that spreads its work over several streams runs as it is written; what it would wait for has run by then.
Events take the time from the daemon's clock.
"""

from __future__ import annotations

from typing import Any

import torch

from dynamo_genie.device.devices import DEVICES
from dynamo_genie.device_name import NAME
from dynamo_genie.torch_internals.device.guard import PRIVATE_USE_1
from dynamo_genie.torch_internals.opaque import opaque_class

Place = torch.device | str | int | None


@opaque_class
class Stream(torch.Stream):
    """The stream of a device, by whatever name."""

    def __new__(cls, device: Place = None, priority: int = 0, **kept: Any) -> Stream:
        """Return the stream of a device; by default that of the current one. Priorities mean nothing."""
        index = kept.get("device_index") if device is None else device
        place = DEVICES.index(index)
        return super().__new__(cls, stream_id=0, device_index=place, device_type=PRIVATE_USE_1)

    def synchronize(self) -> None:
        """Wait until the device has run everything so far, and raise the first error that nobody was told of."""
        DEVICES.synchronize(self.device_index)

    def query(self) -> bool:
        """Whether everything so far has run; it has, once this returns."""
        self.synchronize()
        return True

    def wait_event(self, event: torch.Event) -> None:
        """Do nothing: what the event marks comes first already."""

    def wait_stream(self, stream: torch.Stream) -> None:
        """Do nothing: what that stream was given comes first already."""

    def record_event(self, event: torch.Event | None = None) -> torch.Event:
        """Record an event, a new one where none is given."""
        event = Event() if event is None else event
        event.record(self)
        return event

    def __enter__(self) -> Stream:
        """Make this stream's device the current one."""
        self._before = DEVICES.current
        DEVICES.current = self.device_index
        return self

    def __exit__(self, *_: object) -> None:
        """Return to the device that was the current one."""
        DEVICES.current = self._before


@opaque_class
class Event(torch.Event):
    """A point in what a device runs; with `enable_timing`, when that was, by the daemon's clock.

    Attributes:
        timed: Whether it takes the time.
        on: The index of the device it was recorded on, if it was.
        taken_ns: When that was, in nanoseconds of that daemon's clock, if it takes the time.
    """

    timed: bool
    on: int | None
    taken_ns: int | None

    def __new__(
        cls, device: Place = None, *, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False
    ) -> Event:
        """Return an event that is not recorded yet."""
        event = super().__new__(cls, torch.device(NAME), enable_timing=enable_timing)
        event.timed, event.taken_ns, event.on = enable_timing, None, None
        return event

    def record(self, stream: torch.Stream | None = None) -> None:
        """Mark what the device was told so far. An event that takes the time waits until it has run."""
        self.on = DEVICES.current if stream is None else stream.device_index
        self.taken_ns = DEVICES.session(self.on).clock() if self.timed else None

    def wait(self, stream: torch.Stream | None = None) -> None:
        """Do nothing: what the event marks comes first already."""

    def query(self) -> bool:
        """Whether what the event marks has run; it has, once this returns."""
        self.synchronize()
        return True

    def synchronize(self) -> None:
        """Wait until what the event marks has run."""
        if self.on is not None and self.taken_ns is None:
            DEVICES.synchronize(self.on)

    def elapsed_time(self, end_event: torch.Event) -> float:
        """Return the time between this event and a later one, in milliseconds.

        Raises:
            ValueError: One of them takes no time, or was not recorded, or they are on different devices.
        """
        start_ns, end_ns = self.taken_ns, getattr(end_event, "taken_ns", None)
        if start_ns is None or end_ns is None or self.on != getattr(end_event, "on", None):
            raise ValueError(
                "elapsed_time needs two events of one device, made with enable_timing=True and recorded both"
            )
        return float(end_ns - start_ns) / 1e6


def stream(stream: Stream | None) -> Any:
    """Return a context in which a stream is the current one: of its device, the only one there is."""
    return current_stream() if stream is None else stream


def current_stream(device: Place = None) -> Stream:
    """Return the stream of a device."""
    return Stream(device)


default_stream = current_stream


def set_stream(stream: Stream) -> None:
    """Make a stream's device the current one."""
    DEVICES.current = DEVICES.index(stream.device_index)
