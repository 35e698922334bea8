"""A memory budget: how much memory a worker may fill, counted per storage. Thread-safe; knows no tensors."""

from __future__ import annotations

import threading
from collections.abc import Callable

from dynamo_genie.errors import QuotaExceeded


class MemoryBudget:
    """A limit, and the resident and reserved bytes that count against it.

    The executor accounts for what programs leave resident; the bulk thread reserves an upload's memory before
    it allocates it.
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
        self._lock = threading.Lock()

    def reserve(self, nbytes: int, what: str) -> None:
        """Take `nbytes`, after freeing what nobody needs where that helps, or raise.

        Raises:
            QuotaExceeded: The limit would be passed; the message names what was asked, used and allowed.
        """
        self.has_room(nbytes)
        with self._lock:
            if self.used + nbytes > self.limit:
                raise QuotaExceeded(
                    f"{what} needs {nbytes:,} bytes but {self.used:,} of {self.limit:,} are in use; "
                    f"free tensors or start the daemon with a larger {self._option}"
                )
            self.used += nbytes

    def has_room(self, nbytes: int) -> bool:
        """Whether `nbytes` more would fit, after freeing what nobody needs where that helps; takes nothing."""
        if self.used + nbytes > self.limit and self._make_room is not None:
            self._make_room(nbytes)
        return self.used + nbytes <= self.limit

    def release(self, nbytes: int) -> None:
        """Give back what `reserve` took."""
        with self._lock:
            self.used -= nbytes
