"""The first and last bytes of a tensor, which share a page with other things: were they really written?

Small tensors lie on heap pages that the rest of the process writes all the time. The kernel reports the page; comparing
the tensor's own few bytes on it tells whether the report is about the tensor.
"""

from __future__ import annotations

import ctypes

from dynamo_genie.runtime.page_scan import PAGE_NBYTES
from dynamo_genie.runtime.watch import Watch


class PageEdges:
    """A watched tensor's bytes on its partly filled pages, as of the last time they were noted."""

    __slots__ = ("_head", "_nbytes", "_noted", "_tail", "_watch")

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._nbytes = watch.nbytes
        self._head = min(-watch.address % PAGE_NBYTES, watch.nbytes)
        tail = (watch.address + watch.nbytes) % PAGE_NBYTES
        self._tail = max(self._head, watch.nbytes - tail)
        self._noted: bytes | None = None

    def note(self) -> None:
        """Remember the bytes of now."""
        self._noted = self._read()

    def written(self, low: int, high: int) -> bool:
        """Say whether a report about bytes `low` to `high` concerns the tensor; notes the bytes anew."""
        before, self._noted = self._noted, self._read()
        if max(low, self._head) < min(high, self._tail):
            return True
        return self._noted is None or self._noted != before

    def _read(self) -> bytes | None:
        tensor = self._watch.owner()  # keeps the memory alive until the bytes are read
        address = self._watch.address
        if tensor is None or tensor.data_ptr() != address:
            return None
        head = ctypes.string_at(address, self._head) if self._head else b""
        rest = self._nbytes - self._tail
        return head + ctypes.string_at(address + self._tail, rest) if rest else head
