"""What a session needs of the connections to its worker: whole messages there and back, in order."""

from __future__ import annotations

from typing import Protocol


class Transport(Protocol):
    """A transport of whole messages to one worker. No method blocks for longer than a moment.

    A connection may break at any time. Then messages are missing, and this can be seen from `interrupted`; whoever
    uses the transport calls `renew`, and knows what to send again. `send` and `receive` raise `SessionLost` when the
    transport was closed.
    """

    @property
    def interrupted(self) -> bool:
        """Whether messages may be missing since the last `renew`."""

    def renew(self) -> None:
        """Connect anew; whatever was on its way, in either direction, is dropped."""

    def send(self, message: bytes, body: memoryview | None = None, /) -> bool:
        """Hand over a message, and its body, which must not change before the worker has it; False: not at present."""

    def receive(self) -> bytes | None:
        """Return the next message; None when there was none."""


class BulkTransport(Transport, Protocol):
    """A transport whose answers may have a body, too, received straight into memory of the caller."""

    def receive_body(self, room: memoryview | None = None, /) -> int:
        """Receive the body of the message received last into `room`, or drop it; return its size."""
