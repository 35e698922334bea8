"""The batches of a session that its worker has yet to run: kept to be sent again, and limited to a window."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from dynamo_genie.runtime.wire.limits import WINDOW_BATCHES, WINDOW_NBYTES

MIN_BATCH_NBYTES = 256
"""What a batch counts at least: both ends keep more of it than its bytes."""


class SentBatches:
    """Encoded batches by their numbers, which rise."""

    def __init__(self) -> None:
        self._batches: deque[tuple[int, bytes]] = deque()
        self._nbytes = 0

    def add(self, sequence: int, data: bytes) -> None:
        """Keep a batch that is about to be sent."""
        self._batches.append((sequence, data))
        self._nbytes += max(len(data), MIN_BATCH_NBYTES)

    @property
    def full(self) -> bool:
        """Whether no more may be sent before some of these have run."""
        return len(self._batches) >= WINDOW_BATCHES or self._nbytes >= WINDOW_NBYTES

    def ran(self, sequence: int) -> None:
        """Forget the batches up to this one: they have run."""
        while self._batches and self._batches[0][0] <= sequence:
            self._nbytes -= max(len(self._batches.popleft()[1]), MIN_BATCH_NBYTES)

    def after(self, sequence: int) -> Iterator[bytes]:
        """Yield the batches after this one, in order."""
        return (data for number, data in self._batches if number > sequence)
