"""What has come of one session and waits for its turn: encoded, as it came, and bounded."""

from __future__ import annotations

from collections import deque
from typing import TypeAlias

import zmq

from dynamo_genie.runtime.wire.limits import WINDOW_BATCHES, WINDOW_NBYTES

MAX_WAITING_NBYTES = 2 * WINDOW_NBYTES
MAX_WAITING_BATCHES = 16 * WINDOW_BATCHES
"""What may wait; a client keeps to a window that is smaller."""

READ_AHEAD_NBYTES = 8192
"""A frame within so many bytes shares libzmq's buffer of that size with others, and would keep it."""

Encoded: TypeAlias = "bytes | memoryview"


class Inbox:
    """Messages of one session, in order.

    Attributes:
        waiting: Those that wait, to be looked at.
    """

    def __init__(self) -> None:
        self.waiting: deque[Encoded] = deque()
        self._nbytes = 0

    def add(self, frame: zmq.Frame) -> bool:
        """Keep a message; False where no more may wait."""
        nbytes = len(frame)
        if self._nbytes + nbytes > MAX_WAITING_NBYTES or len(self.waiting) >= MAX_WAITING_BATCHES:
            return False
        self._nbytes += nbytes
        self.waiting.append(frame.bytes if nbytes < READ_AHEAD_NBYTES else frame.buffer)
        return True

    def take(self) -> Encoded:
        """Return the first message and keep it no longer."""
        data = self.waiting.popleft()
        self._nbytes -= len(data)
        return data

    def clear(self) -> None:
        """Forget everything."""
        self.waiting.clear()
        self._nbytes = 0
