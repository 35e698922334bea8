"""What it means to watch a tensor's memory for writes: the watch, and the interface of the trackers.

A consumer hands in tensors and a set, its *inbox*. A scan puts the watches that were written into their inboxes; what a
watch collected waits there until it is taken, so several consumers can share one tracker. A report may be spurious.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Protocol, TypeAlias

import torch

from dynamo_genie.tensors import span_numel

ByteRange: TypeAlias = tuple[int, int]
"""Half-open range of bytes, counted from the tensor's first element."""


class Watch:
    """One watched tensor. Holds it weakly.

    Attributes:
        exact: No write to it can be missed.
        foreign: Other processes may write it at any moment: shared memory, or a file that somebody may be writing.
    """

    __slots__ = ("__weakref__", "_written", "address", "exact", "foreign", "inbox", "nbytes", "owner")

    def __init__(self, tensor: torch.Tensor, inbox: set[Watch]) -> None:
        self.address = tensor.data_ptr()
        self.nbytes = span_numel(tensor.shape, tensor.stride()) * tensor.element_size()
        self.owner = weakref.ref(tensor)
        self.inbox = inbox
        self.exact = self.foreign = False
        self._written: list[ByteRange] = []

    def mark(self, low: int, high: int) -> None:
        """Note that bytes `low` to `high` may have changed."""
        self._written.append((max(low, 0), min(high, self.nbytes)))
        self.inbox.add(self)

    def mark_all(self) -> None:
        """Note that anything may have changed."""
        self.mark(0, self.nbytes)

    def take(self) -> list[ByteRange]:
        """Return what may have changed since the last call, in order and without overlaps, and start afresh."""
        self.inbox.discard(self)
        written, self._written = self._written, []
        return merge_ranges(written)

    def storage(self) -> torch.UntypedStorage | None:
        """Return the watched memory, kept alive by the result; None when the tensor is gone or uses other memory."""
        tensor = self.owner()
        if tensor is None:
            return None
        storage = tensor.untyped_storage()
        low = storage.data_ptr()
        inside = 0 < low <= self.address and self.address + self.nbytes <= low + storage.nbytes()
        return storage if inside else None


class WriteTracker(Protocol):
    """Tells which watched tensors may have been written since the last scan."""

    def watch(self, tensors: Sequence[torch.Tensor], inbox: set[Watch]) -> list[Watch]:
        """Watch these CPU tensors from now on: a write after this call is reported by a later scan."""

    def unwatch(self, watches: Sequence[Watch]) -> None:
        """Stop watching; unknown watches are ignored."""

    def scan(self) -> None:
        """Mark the watches written since the last scan and put them into their inboxes."""

    def close(self) -> None:
        """Give back what the tracker holds."""


def merge_ranges(ranges: Sequence[ByteRange], gap: int = 0) -> list[ByteRange]:
    """Sort ranges and join those that overlap or lie at most `gap` apart."""
    merged: list[ByteRange] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + gap:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return merged
