"""What a session needs of the connections to its worker: whole messages there and back, in order."""

from __future__ import annotations

from typing import Protocol


class Transport(Protocol):
    """A transport of whole messages to one worker. Neither method blocks for longer than a moment.

    Both raise `SessionLost` when the transport can carry nothing any more.
    """

    def send(self, message: bytes, body: memoryview | None = None, /) -> bool:
        """Hand over a message, and its body, which must not change before the worker has it; False: not at present."""

    def receive(self) -> bytes | None:
        """Return the next message; None when there was none."""


class BulkTransport(Transport, Protocol):
    """A transport whose answers may have a body, too, received straight into memory of the caller."""

    def receive_body(self, room: memoryview | None = None, /) -> int:
        """Receive the body of the message received last into `room`, or drop it; return its size."""
