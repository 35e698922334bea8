"""The log of clients that were refused: who, from where and why. A flood of them is counted, not repeated."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import zmq

logger = logging.getLogger(__name__)

QUIET_S = 60.0
"""After a line about one place and reason, others like it are only counted for so long."""

MAX_KINDS = 1024


class RefusalLog:
    """Writes one line for each place and reason, and how many like it came since the last one. For one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}

    def note(self, address: str, reason: str, detail: str = "") -> None:
        """Note that a client at HOST:PORT, or at HOST, was refused; `detail` is no part of the kind."""
        host = address.rpartition(":")[0] or address
        now = self._clock()
        since, unsaid = self._seen.get((host, reason), (-QUIET_S, 0))
        if now - since < QUIET_S:
            self._seen[host, reason] = since, unsaid + 1
            return
        if len(self._seen) >= MAX_KINDS:
            self._seen.clear()
        self._seen[host, reason] = now, 0
        more = f" ({unsaid} more like it since the last such line)" if unsaid else ""
        shown = "".join(c if c.isprintable() else "?" for c in detail)
        logger.warning("refused a client at %s: %s%s%s", address or "an unknown address", reason, shown, more)


def address_of(frame: zmq.Frame) -> str:
    """Return where a received frame came from; empty where ZeroMQ does not know."""
    try:
        return str(frame.get("Peer-Address"))
    except zmq.ZMQError:
        return ""
