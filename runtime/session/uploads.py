"""Uploads: whatever is large goes to the worker by bulk, while the commands that name it are sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from dynamo_genie.errors import QuotaExceeded
from dynamo_genie.runtime.session.bulk import Arrived, BulkConnection, Progress
from dynamo_genie.runtime.session.command_queue import CommandQueue
from dynamo_genie.runtime.session.identity import SessionIdentity

FLUSH_AT_ARRIVED_NBYTES = 16 << 20
"""After so many bytes of uploads the worker is told what to do with them, while more are on their way."""


class Uploads:
    """The uploads of one session."""

    def __init__(self, commands: CommandQueue, bulk: BulkConnection, identity: SessionIdentity) -> None:
        self._commands = commands
        self._bulk = bulk
        self._identity = identity

    def send(self, view: memoryview, kind: str = "weight") -> int:
        """Send bytes by bulk and return the upload's number once all of them have arrived."""
        uploads: list[int] = []
        self.send_many([view], uploads.append, kind=kind)
        return uploads[0]

    def send_many(
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
        self._identity.counters.events["round_trips"] += 1
        waiting = deque(views)
        nbytes = 0

        def pass_on(upload: int) -> None:
            nonlocal nbytes
            nbytes += waiting.popleft().nbytes
            arrived(upload)
            if nbytes >= FLUSH_AT_ARRIVED_NBYTES:
                nbytes = 0
                self._commands.flush()

        try:
            self._bulk.upload(views, kind, pass_on, progress)
        except QuotaExceeded:
            if not self._identity.ids.released:
                raise
            self._commands.sync()  # what died since the last message makes room
            self._bulk.upload(tuple(waiting), kind, pass_on, progress)
