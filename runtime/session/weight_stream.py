"""What a session says of resident weights, and how anything large gets to the daemon."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import zmq

from dynamo_genie.errors import ProtocolError, QuotaExceeded
from dynamo_genie.runtime.session.bulk import Arrived, BulkConnection, Progress
from dynamo_genie.runtime.session.command_stream import CommandStream
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.tensor import TensorSpec

FLUSH_AT_ARRIVED_NBYTES = 16 << 20
"""After so many bytes of uploads the worker is told what to do with them, while more are on their way."""


class WeightStream(CommandStream):
    """A command stream with a bulk connection beside it; a `WeightChannel`."""

    def __init__(self, control: zmq.Socket[bytes], bulk: zmq.Socket[bytes], timeout_s: float) -> None:
        super().__init__(control, timeout_s)
        self._bulk = BulkConnection(bulk, self.counters, self.check, self._heed, timeout_s)

    def _heed(self, error: Exception, operator: str = "") -> Exception:
        """Note a failure after which the session may be of no use, and return it."""
        return error

    def missing(self, digests: Sequence[bytes]) -> set[int]:
        """Return the positions of the contents that the worker lacks."""
        request_id = self.request_id()
        self.post(m.QueryWeights(request_id, tuple(digests)))
        reply = self.wait(request_id)
        if not isinstance(reply, m.WeightsMissing):
            raise ProtocolError(f"expected WeightsMissing, got {type(reply).__name__}")
        return set(reply.missing)

    def upload(self, view: memoryview, kind: str = "weight") -> int:
        """Send bytes by bulk and return the upload's number once all of them have arrived."""
        uploads: list[int] = []
        self.upload_many([view], uploads.append, kind=kind)
        return uploads[0]

    def upload_many(
        self,
        views: Sequence[memoryview],
        arrived: Arrived,
        *,
        kind: str = "weight",
        progress: Progress | None = None,
    ) -> None:
        """Send several buffers by bulk without waiting in between; `arrived` is told each number, in order.

        What `arrived` posts is sent while later buffers travel, so that the worker need not keep all until the end.
        """
        self.counters.events["round_trips"] += 1
        waiting = deque(views)
        nbytes = 0

        def pass_on(upload: int) -> None:
            nonlocal nbytes
            nbytes += waiting.popleft().nbytes
            arrived(upload)
            if nbytes >= FLUSH_AT_ARRIVED_NBYTES:
                nbytes = 0
                self.flush()

        try:
            self._bulk.upload(views, kind, pass_on, progress)
        except QuotaExceeded:
            if not self._released:
                raise
            self.sync()  # what died since the last message makes room
            self._bulk.upload(tuple(waiting), kind, pass_on, progress)

    def store(self, digest: bytes, spec: TensorSpec, upload: int) -> None:
        """Keep an upload as a resident weight; `sync` tells whether that went well."""
        self.post(m.StoreWeight(digest, spec, upload))

    def adopt(self, handle: int, digest: bytes, spec: TensorSpec) -> None:
        """Let a handle name a resident weight."""
        self.live_handles += 1
        self.post(m.AdoptWeight(handle, digest, spec))

    def patch(self, handle: int, offset: int, upload: int) -> None:
        """Overwrite part of a weight."""
        self.post(m.PatchWeight(handle, offset, upload))
