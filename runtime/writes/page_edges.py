"""The first and last bytes of a tensor, which share a page with other things: were they really written?

Small tensors lie on heap pages that the rest of the process writes all the time. The kernel reports the page; comparing
the tensor's own few bytes on it tells whether the report is about the tensor.
"""

from __future__ import annotations

import ctypes

from dynamo_genie.runtime.writes.page_scan import PAGE_NBYTES
from dynamo_genie.runtime.writes.watch import Watch


class PageEdges:
    """A watched tensor's bytes on its partly filled pages, as of the last time they were noted."""

    __slots__ = ("_head", "_nbytes", "_noted", "_tail", "_watch")

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._nbytes = watch.nbytes
        self._head = min(-watch.address % PAGE_NBYTES, watch.nbytes)
        tail = (watch.address + watch.nbytes) % PAGE_NBYTES
        self._tail = max(self._head, watch.nbytes - tail)
        self._noted: list[bytes | None] = [None, None]

    def note(self) -> None:
        """Remember the bytes of now."""
        self._noted = [self._read(0, self._head), self._read(self._tail, self._nbytes)]

    def written(self, low: int, high: int) -> bool:
        """Say whether a report about bytes `low` to `high` concerns the tensor; notes the bytes reported on anew.

        Each end is judged by its own bytes, and only when a report touches it: a change at one end must not be
        used up by a report about the other.
        """
        found = max(low, self._head) < min(high, self._tail)
        if low < self._head:
            found |= self._changed(0, 0, self._head)
        if high > self._tail:
            found |= self._changed(1, self._tail, self._nbytes)
        return found

    def _changed(self, end: int, low: int, high: int) -> bool:
        before, now = self._noted[end], self._read(low, high)
        self._noted[end] = now
        return now is None or now != before

    def _read(self, low: int, high: int) -> bytes | None:
        tensor = self._watch.owner()  # keeps the memory alive until the bytes are read
        if tensor is None or tensor.data_ptr() != self._watch.address:
            return None
        return ctypes.string_at(self._watch.address + low, high - low) if high > low else b""
