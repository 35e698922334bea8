"""The worker's bulk thread: uploads in, downloads out, never in the way of a call.

It also reads the link to the supervisor, so that sessions come and go and status is answered while a program
runs. Bulk frames are received straight into their place; a sender waits for credits, so neither side holds
more than a window of chunks that the other has not taken.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import zmq

from dynamo_genie.errors import GenieError, ProtocolError, SessionLost
from dynamo_genie.remote_daemon.admissions import Admission, Admissions
from dynamo_genie.remote_daemon.staging import Staging
from dynamo_genie.remote_daemon.wakeup import Wakeup
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.limits import CHUNK_NBYTES, UPLOAD_WINDOW

log = logging.getLogger(__name__)

CREDIT_EVERY = 4
"""Chunks taken before the sender gets credit for them, so that credits cost little."""


@dataclass
class Download:
    """A result on its way to a client."""

    number: int
    data: memoryview
    sent: int = 0


@dataclass
class Peer:
    """One client's bulk connection."""

    identity: bytes
    session: bytes
    staging: Staging
    outgoing: deque[Download]
    credits: int = UPLOAD_WINDOW
    taken: int = 0


class Transfers:
    """Owns the bulk socket; `serve` runs in its own thread until `stop`."""

    def __init__(self, socket: zmq.Socket[bytes], admissions: Admissions) -> None:
        self._socket = socket
        self._admissions = admissions
        self._wakeup = Wakeup()
        self._peers: dict[bytes, Peer] = {}
        self._waiting: deque[tuple[Admission, Download]] = deque()
        self._next_download = 0
        self._stopping = threading.Event()
        self._watched: dict[int, Callable[[], bool]] = {}

    def watch(self, fileno: int, readable: Callable[[], bool]) -> None:
        """Call `readable` in this thread when a descriptor is readable, until it returns False."""
        self._watched[fileno] = readable

    def send(self, admission: Admission, data: memoryview) -> int:
        """Queue bytes for a client, from the executor's thread; return the download's number."""
        self._next_download += 1
        self._waiting.append((admission, Download(self._next_download, data)))
        self._wakeup.set()
        return self._next_download

    def forget(self, session: bytes) -> None:
        """Let go of a dropped session's connection and of what waits for it; called in this thread."""
        self._peers = {identity: peer for identity, peer in self._peers.items() if peer.session != session}

    def stop(self) -> None:
        """Make `serve` return."""
        self._stopping.set()
        self._wakeup.set()

    def serve(self) -> None:
        """Run the thread."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._wakeup.fileno(), zmq.POLLIN)
        for fileno in self._watched:
            poller.register(fileno, zmq.POLLIN)
        while not self._stopping.is_set():
            for ready, _ in poller.poll(1000):
                if ready is self._socket:
                    self._receive_available()
                elif ready == self._wakeup.fileno():
                    self._wakeup.clear()
                elif not self._watched[ready]():
                    poller.unregister(ready)
            self._start_waiting()

    def _receive_available(self) -> None:
        for _ in range(64):
            try:
                identity = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._receive(identity)

    def _receive(self, identity: bytes) -> None:
        """Take one message; whatever is wrong with it concerns its sender only."""
        transfer = 0
        try:
            if not self._socket.get(zmq.RCVMORE):
                return
            message = codec.client_to_bulk(self._socket.recv(zmq.NOBLOCK))
            if isinstance(message, m.Attach):
                self._attach(identity, message)
                return
            peer = self._peers.get(identity)
            if peer is None:
                raise SessionLost("the bulk connection to the worker was cut, and what was on the way is lost")
            transfer = getattr(message, "upload", 0) or getattr(message, "transfer", 0)
            self._dispatch(peer, message)
        except GenieError as error:
            self._say(identity, m.BulkFailed(transfer, type(error).__name__, str(error)[:4000]))
        finally:
            while self._socket.get(zmq.RCVMORE):
                self._socket.recv(zmq.NOBLOCK)

    def _attach(self, identity: bytes, message: m.Attach) -> None:
        admission = self._admissions.attach(message.session, message.token)
        if admission is None:
            raise ProtocolError("no such session, or a wrong token")
        admission.bulk_identity = identity
        self._peers[identity] = Peer(identity, admission.session, admission.staging, deque())
        self._say(identity, m.Attached(message.request_id))

    def _dispatch(self, peer: Peer, message: m.ClientToBulk) -> None:
        match message:
            case m.Chunk():
                self._take_chunk(peer, message)
            case m.UploadBegin():
                peer.staging.begin(message.upload, message.nbytes)
                if message.nbytes == 0:
                    self._say(peer.identity, m.UploadDone(message.upload))
            case m.UploadAbort():
                peer.staging.abort(message.upload)
            case m.Credit():
                peer.credits += min(message.chunks, UPLOAD_WINDOW)
                self._pump(peer)

    def _take_chunk(self, peer: Peer, chunk: m.Chunk) -> None:
        """Receive a chunk into its place. A chunk of an upload that was refused is dropped, credit and all."""
        peer.taken += 1
        if peer.taken % CREDIT_EVERY == 0:
            self._say(peer.identity, m.Credit(CREDIT_EVERY))
        upload = peer.staging.find(chunk.transfer)
        if upload is None:
            return
        if not self._socket.get(zmq.RCVMORE):
            raise ProtocolError("a chunk came without its data")
        room = upload.room(chunk.offset)
        received = self._socket.recv_into(room, flags=zmq.NOBLOCK)
        if received != len(room):
            peer.staging.abort(chunk.transfer)
            raise ProtocolError(f"a chunk of {received} bytes came where {len(room)} were due")
        if upload.arrived(room):
            peer.staging.finish(chunk.transfer)
            self._say(peer.identity, m.UploadDone(chunk.transfer))

    def _start_waiting(self) -> None:
        while self._waiting:
            admission, download = self._waiting.popleft()
            peer = self._peers.get(admission.bulk_identity)
            if peer is not None:
                peer.outgoing.append(download)
                self._pump(peer)

    def _pump(self, peer: Peer) -> None:
        while peer.outgoing and peer.credits > 0:
            download = peer.outgoing[0]
            header = codec.encode(m.Chunk(download.number, download.sent))
            data = download.data[download.sent : download.sent + CHUNK_NBYTES]
            try:
                self._socket.send_multipart([peer.identity, header, data], zmq.NOBLOCK, copy=False)
            except zmq.ZMQError as error:
                log.debug("bulk peer went away: %s", error)
                peer.outgoing.clear()
                return
            peer.credits -= 1
            download.sent += len(data)
            if download.sent >= len(download.data):
                peer.outgoing.popleft()

    def _say(self, identity: bytes, message: m.BulkToClient) -> None:
        try:
            self._socket.send_multipart([identity, codec.encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            log.debug("bulk peer went away: %s", error)
