"""Peer traffic: bytes of tensors that went to and came from other workers, by tensor class. Thread-safe."""

from __future__ import annotations

import threading
from collections import Counter

from dynamo_genie.runtime.wire.record import Tally

MAX_KINDS = 64
OTHER = "other"
"""The class of what a client calls by ever new names."""


class PeerTraffic:
    """Counts for one session, and for `whole`, the worker that it is a part of."""

    def __init__(self, whole: PeerTraffic | None = None) -> None:
        self._whole = whole
        self._lock = threading.Lock()
        self._sent: Counter[str] = Counter()
        self._received: Counter[str] = Counter()

    def count_sent(self, kind: str, nbytes: int) -> None:
        """Count bytes that were handed to a socket."""
        self._count(self._sent, kind, nbytes)
        if self._whole is not None:
            self._whole.count_sent(kind, nbytes)

    def count_received(self, kind: str, nbytes: int) -> None:
        """Count bytes that arrived."""
        self._count(self._received, kind, nbytes)
        if self._whole is not None:
            self._whole.count_received(kind, nbytes)

    @property
    def sent(self) -> Tally:
        """What was sent, by class."""
        with self._lock:
            return tuple(sorted(self._sent.items()))

    @property
    def received(self) -> Tally:
        """What was received, by class."""
        with self._lock:
            return tuple(sorted(self._received.items()))

    def _count(self, counter: Counter[str], kind: str, nbytes: int) -> None:
        with self._lock:
            counter[kind if kind in counter or len(counter) < MAX_KINDS else OTHER] += nbytes
