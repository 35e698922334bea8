"""Snapshots: a tensor's bytes as they were at one moment, read piece by piece while they travel to a client.

A copy at once would double what a tensor takes for as long as its reader pleases. So a snapshot lies where the tensor
does, wherever that is possible, and is copied when somebody is about to write there, and then only what was not read.
"""

from __future__ import annotations

import threading
from typing import Protocol

import torch

from dynamo_genie.errors import QuotaExceeded
from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget


class TensorSnapshot(Protocol):
    """Bytes that do not change; read by the bulk thread, from the front to the end."""

    @property
    def nbytes(self) -> int:
        """How many there are."""
        ...

    def read(self, start: int, stop: int) -> bytes | memoryview:
        """Return a piece of them that nobody writes to, ever.

        Raises:
            QuotaExceeded: They had to make way, and there was no room for a copy of them.
        """
        ...

    def end(self) -> None:
        """Say that nobody wants to read any more; again does nothing."""
        ...


class CopiedSnapshot:
    """A private copy of a tensor's bytes, which counts in a budget until it ends."""

    def __init__(self, data: memoryview, budget: MemoryBudget) -> None:
        """Take over `data`, whose room was reserved in `budget` before it was made."""
        self.nbytes = data.nbytes
        self._data: memoryview | None = data
        self._budget = budget

    def read(self, start: int, stop: int) -> bytes | memoryview:
        """See `TensorSnapshot`. Nothing is copied: nobody else has this memory."""
        assert self._data is not None
        return self._data[start:stop]

    def end(self) -> None:
        """See `TensorSnapshot`."""
        if self._data is not None:
            self._data = None
            self._budget.release(self.nbytes)


class SharedSnapshot:
    """A snapshot in the memory of the tensor itself: whoever writes there calls `separate` before.

    The executor separates while the bulk thread reads, so there is a lock.
    """

    def __init__(self, flat: torch.Tensor) -> None:
        """Show `flat`, host memory as uint8, which stays alive until the snapshot ends."""
        self.nbytes = flat.numel()
        self._data: memoryview | None = flat.numpy().data
        self._begin = 0  # what lies before it was read, and a copy does without
        self._budget: MemoryBudget | None = None
        self._lost: QuotaExceeded | None = None
        self._lock = threading.Lock()
        self.ended = False

    def read(self, start: int, stop: int) -> bytes | memoryview:
        """See `TensorSnapshot`. Copies the piece: it may wait in a socket for long after the tensor was written to."""
        with self._lock:
            if self._lost is not None:
                raise self._lost
            assert self._data is not None
            piece = bytes(self._data[start - self._begin : stop - self._begin])
            if self._budget is None:
                self._begin, self._data = stop, self._data[stop - self._begin :]
                self.ended = stop == self.nbytes  # at once: the client may free the tensor as soon as it has the piece
            return piece

    def separate(self, budget: MemoryBudget) -> None:
        """Copy what was not read, so that the tensor may be written; without room for that, the reader is refused."""
        with self._lock:
            if self._data is None or self._budget is not None:
                return
            rest, self._data = self._data, None
            try:
                budget.reserve(rest.nbytes, "a copy of what a fetch has not read yet")
            except QuotaExceeded as error:
                self._lost = QuotaExceeded(f"a fetched tensor was written before it was read, and {error}")
                return
            self._data, self._budget = memoryview(bytes(rest)), budget

    def end(self) -> None:
        """See `TensorSnapshot`."""
        with self._lock:
            self.ended = True
            if self._data is not None and self._budget is not None:
                self._budget.release(self._data.nbytes)
            self._data = None
