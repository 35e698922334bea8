"""A memory budget: how much memory a worker may fill, counted per storage. Thread-safe; knows no tensors."""

from __future__ import annotations

import threading
from collections.abc import Callable

from dynamo_genie.errors import QuotaExceeded

FREE_OVERHEAD_NBYTES = 8 << 20
"""Overhead that does not count: part of what a worker takes beside its limit anyway."""


class MemoryBudget:
    """A limit, and the resident and reserved bytes that count against it.

    The executor accounts for what programs leave resident; the bulk thread reserves an upload's memory before
    it allocates it.

    Attributes:
        used: Bytes of tensors, resident or on their way.
        overhead: Bytes of what is kept beside them: handles, programs, bindings.
    """

    def __init__(
        self, limit: int, option: str = "--memory-limit", make_room: Callable[[int], object] | None = None
    ) -> None:
        """Allow `limit` bytes.

        Args:
            option: What raises the limit, of the daemon's options.
            make_room: Frees what nobody needs, until so many bytes more fit.
        """
        self.limit = limit
        self._option = option
        self._make_room = make_room
        self.used = 0
        self.overhead = 0
        self._excess = 0  # of the overhead, what counts
        self._lock = threading.Lock()

    def reserve(self, nbytes: int, what: str) -> None:
        """Take `nbytes`, after freeing what nobody needs where that helps, or raise.

        Raises:
            QuotaExceeded: The limit would be passed; the message names what was asked, used and allowed.
        """
        self.has_room(nbytes)
        with self._lock:
            if self.used + self._excess + nbytes > self.limit:
                raise self._exceeded(nbytes, what)
            self.used += nbytes

    def reserve_overhead(self, nbytes: int, what: str) -> None:
        """Take `nbytes` for something that is no tensor, or raise.

        Raises:
            QuotaExceeded: The limit would be passed.
        """
        self.has_room(_excess(self.overhead + nbytes) - self._excess)
        with self._lock:
            if self.used + _excess(self.overhead + nbytes) > self.limit:
                raise self._exceeded(nbytes, what)
            self._set_overhead(self.overhead + nbytes)

    def has_room(self, nbytes: int) -> bool:
        """Whether `nbytes` more would fit, after freeing what nobody needs where that helps; takes nothing."""
        if self.used + self._excess + nbytes > self.limit and self._make_room is not None:
            self._make_room(nbytes)
        return self.used + self._excess + nbytes <= self.limit

    def release(self, nbytes: int) -> None:
        """Give back what `reserve` took."""
        with self._lock:
            self.used -= nbytes

    def release_overhead(self, nbytes: int) -> None:
        """Give back what `reserve_overhead` took."""
        with self._lock:
            self._set_overhead(self.overhead - nbytes)

    @property
    def taken(self) -> int:
        """What counts against the limit."""
        return self.used + self._excess

    def _set_overhead(self, nbytes: int) -> None:
        self.overhead = nbytes
        self._excess = _excess(nbytes)

    def _exceeded(self, nbytes: int, what: str) -> QuotaExceeded:
        beside = f" and {self.overhead:,} for handles and programs" if self.overhead > FREE_OVERHEAD_NBYTES else ""
        return QuotaExceeded(
            f"{what} needs {nbytes:,} bytes but {self.used:,}{beside} of {self.limit:,} are in use; "
            f"free tensors or start the daemon with a larger {self._option}"
        )


def _excess(overhead: int) -> int:
    return max(0, overhead - FREE_OVERHEAD_NBYTES)
