"""Downloads: snapshots on their way to clients, chunk by chunk, as clients take them. In the bulk thread.

A client that does not read keeps nothing but what its tensors take anyway: a chunk is made when it is sent, and so many
may lie in ZeroMQ's queues, of all clients together, that they stay within the worker's overhead. Credits alone do not
see to that, for a client may give them for what it never read; ZeroMQ says when the network has taken a chunk.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field

import zmq

from dynamo_genie.errors import QuotaExceeded
from dynamo_genie.remote_daemon.memory.snapshot import TensorSnapshot
from dynamo_genie.remote_daemon.transfer.link_receiver import Say
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.error_codes import error_code
from dynamo_genie.runtime.wire.limits import CHUNK_NBYTES, UPLOAD_WINDOW

log = logging.getLogger(__name__)

MAX_QUEUED = 24
"""Chunks in ZeroMQ's queues, of all clients together; one that has none there may send one more."""


@dataclass
class Download:
    """A snapshot on its way to a client."""

    number: int
    snapshot: TensorSnapshot
    sent: int = 0

    def next_chunk(self) -> bytes | memoryview:
        """Return the bytes to be sent now."""
        return self.snapshot.read(self.sent, min(self.sent + CHUNK_NBYTES, self.snapshot.nbytes))


@dataclass
class Queued:
    """A chunk in ZeroMQ's queue, and the download that ends with it, if it is the last one."""

    tracker: zmq.MessageTracker
    last_of: Download | None


@dataclass(eq=False)
class ClientDownloads:
    """The downloads of one connection.

    Attributes:
        waiting: Those of which some chunk is still to be sent.
        queued: Chunks that the network has not taken yet.
        credits: Chunks that the client has room for.
    """

    identity: bytes
    waiting: deque[Download] = field(default_factory=deque)
    queued: deque[Queued] = field(default_factory=deque)
    credits: int = UPLOAD_WINDOW


class Downloads:
    """All downloads of a worker's clients."""

    def __init__(self, socket: zmq.Socket[bytes], say: Say) -> None:
        self._socket = socket
        self._say = say
        self._connections: set[ClientDownloads] = set()
        self._gone: list[Queued] = []
        self._queued = 0

    @property
    def queued(self) -> int:
        """Chunks that the network has not taken yet."""
        return self._queued

    def open(self, identity: bytes) -> ClientDownloads:
        """Return the downloads of a new connection: none yet."""
        outgoing = ClientDownloads(identity)
        self._connections.add(outgoing)
        return outgoing

    def start(self, outgoing: ClientDownloads, download: Download) -> None:
        """Send a snapshot behind those that were started before."""
        outgoing.waiting.append(download)
        self._send(outgoing)

    def credit(self, outgoing: ClientDownloads, chunks: int) -> None:
        """Send so many chunks more."""
        outgoing.credits = min(outgoing.credits + chunks, UPLOAD_WINDOW)
        self._send(outgoing)

    def tick(self) -> None:
        """Go on with what had to wait until the network took something."""
        self._gone = [queued for queued in self._gone if not self._taken(queued)]
        for outgoing in list(self._connections):
            self._send(outgoing)

    def close(self, outgoing: ClientDownloads) -> None:
        """End the downloads of a connection that nobody reads from any more."""
        self._connections.discard(outgoing)
        self._gone += outgoing.queued
        for download in outgoing.waiting:
            download.snapshot.end()
        outgoing.waiting.clear()

    def _send(self, outgoing: ClientDownloads) -> None:
        while outgoing.queued and self._taken(outgoing.queued[0]):
            outgoing.queued.popleft()
        while outgoing.waiting and outgoing.credits > 0 and self._has_room(outgoing):
            download = outgoing.waiting[0]
            try:
                chunk = download.next_chunk()
            except QuotaExceeded as error:
                self._refuse(outgoing, error)
                continue
            except MemoryError:  # what a program takes at the moment it gives back: the next tick tries again
                log.warning("no memory for a chunk of a download; it waits")
                return
            if not self._queue(outgoing, download, chunk):
                return

    def _has_room(self, outgoing: ClientDownloads) -> bool:
        return not outgoing.queued or (len(outgoing.queued) < UPLOAD_WINDOW and self._queued < MAX_QUEUED)

    def _queue(self, outgoing: ClientDownloads, download: Download, chunk: bytes | memoryview) -> bool:
        """Give a chunk to ZeroMQ; return whether it takes more."""
        frames = [outgoing.identity, codec.encode(m.Chunk(download.number, download.sent)), chunk]
        try:
            tracker = self._socket.send_multipart(frames, zmq.NOBLOCK, copy=False, track=True)
        except zmq.ZMQError as error:
            log.debug("bulk peer went away: %s", error)
            self.close(outgoing)
            return False
        assert tracker is not None
        outgoing.credits -= 1
        download.sent += len(chunk)
        is_last = download.sent >= download.snapshot.nbytes
        outgoing.queued.append(Queued(tracker, download if is_last else None))
        self._queued += 1
        if is_last:
            outgoing.waiting.popleft()
        return True

    def _taken(self, queued: Queued) -> bool:
        """Say whether the network has taken a chunk, and account for it if so."""
        if not queued.tracker.done:
            return False
        self._queued -= 1
        if queued.last_of is not None:
            queued.last_of.snapshot.end()
        return True

    def _refuse(self, outgoing: ClientDownloads, error: QuotaExceeded) -> None:
        download = outgoing.waiting.popleft()
        download.snapshot.end()
        self._say(outgoing.identity, m.BulkFailed(download.number, error_code(error), str(error)[:4000]))
