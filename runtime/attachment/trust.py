"""How long a connection is trusted on which nothing comes, though something should. Time is passed in."""

from __future__ import annotations

FIRST_S = 10.0
MAX_S = 120.0


class Trust:
    """The trust in one connection after the other of the same kind.

    A message may be lost on a connection that seems whole: where a host between the two has lost its memory, or bytes
    around a sealed message were changed. Nobody can tell that from a worker that computes for long, or from a slow
    network, so a new connection is made, which costs little and repeats what was lost, and trusted twice as long.
    """

    def __init__(self, first_s: float = FIRST_S) -> None:
        self._limit_s = first_s
        self._silent_since: float | None = None

    def heard(self) -> None:
        """Note that something came."""
        self._silent_since = None

    def exhausted(self, now: float) -> bool:
        """Whether to connect anew; asked now and then while nothing comes."""
        if self._silent_since is None:
            self._silent_since = now
        if now - self._silent_since < self._limit_s:
            return False
        self._silent_since = None
        self._limit_s = min(2 * self._limit_s, MAX_S)
        return True
