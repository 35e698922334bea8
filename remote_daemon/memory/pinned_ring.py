"""A ring of pinned buffers, for copies between host and device on a stream of its own.

A copy from ordinary memory runs at a fraction of the link's speed and holds the caller up. Through pinned buffers the
device fetches one piece while the host fills the next::

    host      fill 0 | fill 1 | fill 2 | wait for 0, fill 0 | ...
    device             copy 0 | copy 1 | copy 2             | ...

A buffer is filled again only after its copy is through. The copy stream waits for all that was launched before on the
compute stream, for memory may come from a tensor that a kernel still reads; the compute stream waits for the copies
before it goes on, so that no kernel reads what is not there yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

SLOTS = 8
SLOT_NBYTES = 4 << 20
SMALL_NBYTES = 64 << 10
"""Up to this size an upload is one copy in the compute stream: waiting for another stream and back takes longer."""


class CopyEvent(Protocol):
    """A point on a stream."""

    def synchronize(self) -> None:
        """Wait until the device has passed it."""
        ...


class CopyStreams(Protocol):
    """The compute stream of a worker, and a stream for copies beside it."""

    def copies_wait(self) -> None:
        """Let later copies wait for what was launched on the compute stream so far."""
        ...

    def compute_waits(self) -> None:
        """Let later launches on the compute stream wait for the copies so far."""
        ...

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> CopyEvent:
        """Launch a copy between pinned and device memory; return the point at which it is through."""
        ...

    def copy_small(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Launch a copy of a little host memory on the compute stream; `source` is no longer needed then."""
        ...


@dataclass
class _Slot:
    memory: torch.Tensor
    busy: CopyEvent | None = None

    def free(self) -> torch.Tensor:
        """Wait until nothing reads or writes this buffer, and return it."""
        if self.busy is not None:
            self.busy.synchronize()
            self.busy = None
        return self.memory


class PinnedRing:
    """A ring of pinned buffers; used by one thread."""

    def __init__(self, buffers: Sequence[torch.Tensor], streams: CopyStreams, small_nbytes: int = SMALL_NBYTES) -> None:
        """Use `buffers`, flat uint8 tensors of one size in pinned memory, for uploads of more than `small_nbytes`."""
        self._small_nbytes = small_nbytes
        self._slots = [_Slot(memory) for memory in buffers]
        self._streams = streams
        self._next = 0

    def upload(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Copy host memory to the device, both flat uint8; returns when `source` is no longer needed."""
        if source.numel() <= self._small_nbytes:
            self._streams.copy_small(target, source)
            return
        self._streams.copies_wait()
        size = self._slots[0].memory.numel()
        for start in range(0, source.numel(), size):
            piece = source[start : start + size]
            slot = self._take()
            filled = slot.free()[: piece.numel()].copy_(piece)
            slot.busy = self._streams.copy(target[start : start + size], filled)
        self._streams.compute_waits()

    def download(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Copy device memory to the host, both flat uint8; returns when all of it is there."""
        self._streams.copies_wait()
        size = self._slots[0].memory.numel()
        waiting: list[tuple[_Slot, torch.Tensor]] = []
        for start in range(0, source.numel(), size):
            if len(waiting) == len(self._slots):
                self._empty(*waiting.pop(0))
            piece = source[start : start + size]
            slot = self._take()
            slot.busy = self._streams.copy(slot.free()[: piece.numel()], piece)
            waiting.append((slot, target[start : start + size]))
        for slot, part in waiting:
            self._empty(slot, part)
        self._streams.compute_waits()

    def _take(self) -> _Slot:
        slot = self._slots[self._next]
        self._next = (self._next + 1) % len(self._slots)
        return slot

    @staticmethod
    def _empty(slot: _Slot, part: torch.Tensor) -> None:
        part.copy_(slot.free()[: part.numel()])
