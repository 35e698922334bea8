"""An outgoing tensor, on its way to another worker, cut into frames. Knows nothing of sockets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.limits import CHUNK_NBYTES, MAX_INLINE_NBYTES
from dynamo_genie.runtime.wire.tensor import TensorSpec


@dataclass
class Outgoing:
    """Bytes in memory order, or the error that stands for them. `release` gives back the room they take."""

    transfer: int
    kind: str
    spec: TensorSpec | None
    data: memoryview
    error: m.ErrorInfo | None = None
    release: Callable[[], None] | None = None
    begun: bool = False
    sent: int = 0

    def next_frames(self) -> tuple[list[bytes | memoryview], int]:
        """Return the frames of the next message and how many of the tensor's bytes are in it."""
        if self.spec is None:
            assert self.error is not None
            return [codec.encode(m.TensorFailed(self.transfer, self.error))], 0
        if not self.begun:
            inline = bytes(self.data) if len(self.data) <= MAX_INLINE_NBYTES else b""
            return [codec.encode(m.TensorBegin(self.transfer, self.spec, self.kind, inline))], len(inline)
        chunk = self.data[self.sent : self.sent + CHUNK_NBYTES]
        return [codec.encode(m.Chunk(self.transfer, self.sent)), chunk], len(chunk)

    def advance(self, sent: int) -> bool:
        """Account for a message that was handed over; return whether it was the last."""
        self.begun = True
        self.sent += sent
        return self.sent == len(self.data)

    def drop(self) -> None:
        """Give back the room."""
        release, self.release, self.data = self.release, None, memoryview(b"")
        if release is not None:
            release()
