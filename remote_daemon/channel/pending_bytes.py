"""How much each connection has sent that nobody has read yet. Pure bookkeeping; the kernel's figures are passed in.

ZeroMQ reads ahead without a limit: it bounds a frame, but neither the frames of a message nor, where its queue may not
stop reading, the messages. The kernel knows what came in on a connection, and the reader what it was handed of that.
"""

from __future__ import annotations

from dataclasses import dataclass

CURVE_NBYTES = 33
"""What CURVE adds to a frame: a command's name, a nonce, a seal and flags."""

SHORT_FRAME_NBYTES = 255
SLACK = 64
"""One part in so many of what was delivered is forgiven besides: PINGs and the like, so that no figure drifts."""


def on_the_wire(nbytes: int, *, curve: bool) -> int:
    """Return what a frame of `nbytes` takes in the stream: ZMTP puts flags and its size, in 1 or 8 bytes, before it."""
    if curve:
        nbytes += CURVE_NBYTES
    return nbytes + (2 if nbytes <= SHORT_FRAME_NBYTES else 9)


@dataclass(eq=False)
class PeerConnection:
    """One accepted connection; `received` and `delivered` are what was known of it when it was looked at last.

    `inode` tells it from the others that have its descriptor before and after it. `client` is whose it is, once known.
    """

    descriptor: int
    inode: int
    address: str
    received: int = 0
    delivered: int = 0
    pending: int = 0
    client: str | None = None

    @property
    def host(self) -> str:
        """Return its address without the port."""
        return self.address.rpartition(":")[0]

    def account(self, received: int, delivered: int) -> bool:
        """Take in both counts, `delivered` as it stood before `received` was asked; return whether more came.

        What is forgiven is never saved up: who has been read whole starts from nothing, however much he sent before.
        """
        grown, read = received - self.received, delivered - self.delivered
        self.received, self.delivered = received, delivered
        self.pending = max(0, self.pending + grown - read - read // SLACK)
        return grown > 0
