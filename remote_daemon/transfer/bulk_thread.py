"""The worker's bulk thread: uploads in, downloads out, tensors to and from other workers, never in the way of a call.

It also reads the link to the supervisor, so that sessions come and go and status is answered while a program
runs. Bulk frames are received straight into their place; a sender waits for credits, so neither side holds
more than a window of chunks that the other has not taken.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

import zmq

from dynamo_genie.errors import GenieError, ProtocolError, QuotaExceeded, SessionLost
from dynamo_genie.remote_daemon.channel.auth import verified_user
from dynamo_genie.remote_daemon.channel.connection_guard import ConnectionGuard
from dynamo_genie.remote_daemon.channel.frame_reader import FrameReader
from dynamo_genie.remote_daemon.channel.sockets import Socket
from dynamo_genie.remote_daemon.channel.wakeup import Wakeup
from dynamo_genie.remote_daemon.memory.snapshot import TensorSnapshot
from dynamo_genie.remote_daemon.transfer.client_bulk import Cancel, ClientBulk
from dynamo_genie.remote_daemon.transfer.downloads import Download
from dynamo_genie.remote_daemon.transfer.inbound_links import InboundLinks
from dynamo_genie.remote_daemon.transfer.link_receiver import LinkReceiver
from dynamo_genie.remote_daemon.transfer.mailboxes import SessionMailbox, SessionMailboxes
from dynamo_genie.remote_daemon.transfer.outbound_links import OutboundLinks
from dynamo_genie.remote_daemon.transfer.outgoing import Outgoing
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.error_codes import error_code

log = logging.getLogger(__name__)

MAX_PENDING_NBYTES = 32 << 20
"""What a client or a worker may have sent that was not read yet: twice what credits allow."""

FIRST_DOWNLOAD = 1 << 60
"""Downloads are numbered from here on, uploads from 1: a `BulkFailed` means one or the other."""

LOOK_SOON_MS = 20
"""How soon the thread looks again whether a program can be interrupted that nobody waits for."""

TICK_S = 1.0
"""How often the thread looks for links that are cut or take too long."""


class BulkThread:
    """Owns the bulk socket and the links; `serve` runs in its own thread until `stop`.

    `client_key` is the CURVE key that a session's client proves, empty without keys.
    """

    def __init__(
        self,
        context: zmq.Context[Socket],
        socket: Socket,
        mailboxes: SessionMailboxes,
        links: InboundLinks,
        cancel: Cancel,
        look: Callable[[], bool],
        client_key: str = "",
    ) -> None:
        self._socket = socket
        self._mailboxes = mailboxes
        self._client_key = client_key
        self._wakeup = Wakeup()
        self._poller = zmq.Poller()
        self._readable: dict[Socket | int, Callable[[], object]] = {}
        self._jobs: deque[Callable[[], None]] = deque()
        self._next_download = FIRST_DOWNLOAD
        self._look = look
        self._stopping = threading.Event()
        self.watch(socket, self._receive_available)
        self.watch(self._wakeup.fileno(), self._wakeup.clear)
        self.outbound = OutboundLinks(context, mailboxes, self.watch, self._unwatch)
        self._guard = ConnectionGuard(socket, "bulk", MAX_PENDING_NBYTES)
        self._reader = FrameReader(socket, self._guard)
        self.inbound = LinkReceiver(self._reader, self._say, links)
        self.clients = ClientBulk(socket, self._reader, self._say, self.inbound, self.outbound, cancel)

    # --- from the executor's thread --------------------------------------------------------------------------

    def send(self, mailbox: SessionMailbox, snapshot: TensorSnapshot) -> int:
        """Queue a snapshot for a client; return the download's number."""
        self._next_download += 1
        self._post(partial(self.clients.start_download, mailbox, Download(self._next_download, snapshot)))
        return self._next_download

    def send_tensor(self, mailbox: SessionMailbox, link: int, outgoing: Outgoing) -> None:
        """Queue a tensor for another worker."""
        self._post(partial(self.outbound.send, mailbox, link, outgoing))

    def stop(self) -> None:
        """Make `serve` return."""
        self._stopping.set()
        self._wakeup.set()

    def _post(self, job: Callable[[], None]) -> None:
        self._jobs.append(job)
        self._wakeup.set()

    # --- this thread -----------------------------------------------------------------------------------------

    def forget(self, session: bytes) -> None:
        """Let go of a dropped session's connections and of what waits for them; called in this thread."""
        self.clients.forget(session)
        self.inbound.links.forget(session)
        self.outbound.forget(session)

    def serve(self) -> None:
        """Run the thread."""
        next_tick = time.monotonic() + TICK_S
        while not self._stopping.is_set():
            for ready, _ in self._poller.poll(LOOK_SOON_MS if self._look() else round(TICK_S * 1000)):
                readable = self._readable.get(ready)
                if readable is not None:  # else it was closed by what came before it
                    readable()
            while self._jobs:
                self._jobs.popleft()()
            now = time.monotonic()
            if now >= next_tick:
                next_tick = now + TICK_S
                self.inbound.probe()
                self.outbound.tick(now)
                self.clients.tick()
        self._guard.close()

    def watch(self, socket: Socket | int, readable: Callable[[], object]) -> None:
        """Call `readable` in this thread when there is something to read."""
        self._poller.register(socket, zmq.POLLIN)
        self._readable[socket] = readable

    def _unwatch(self, socket: Socket) -> None:
        self._poller.unregister(socket)
        del self._readable[socket]

    def _receive_available(self) -> None:
        for _ in range(64):
            try:
                frame = self._reader.begin()
            except zmq.Again:
                return
            self._receive(frame)

    def _receive(self, frame: zmq.Frame) -> None:
        """Take one message; whatever is wrong with it concerns its sender only."""
        identity = frame.bytes
        transfer = 0
        try:
            if not self._reader.more:
                return
            message = codec.to_bulk(self._reader.receive())
            if isinstance(message, m.Attach):
                self._attach(identity, verified_user(frame), message)
            elif isinstance(message, m.AttachPeer):
                self._attach_peer(identity, verified_user(frame), message)
            else:
                transfer = getattr(message, "upload", 0) or getattr(message, "transfer", 0)
                self._dispatch(identity, message)
        except GenieError as error:
            self._say(identity, m.BulkFailed(transfer, error_code(error), str(error)[:4000]))
        except MemoryError:  # a program takes what there is, at the moment
            why = "no memory is left for what was sent; send it again, or start the daemon with a larger --memory-limit"
            self._say(identity, m.BulkFailed(transfer, QuotaExceeded.__name__, why))
        finally:
            self._reader.drop_rest()

    def _attach(self, identity: bytes, user: str, message: m.Attach) -> None:
        if not self._mailboxes.knows(message.session):
            raise SessionLost("its lease ended, or it was never let in")
        mailbox = self._mailboxes.attach(message.session, message.token)
        if mailbox is None or user != self._client_key or self.inbound.links.of(identity) is not None:
            raise ProtocolError("no such session, or a wrong token")
        self.clients.attach(identity, mailbox)
        self._say(identity, m.Attached(message.request_id))

    def _attach_peer(self, identity: bytes, user: str, message: m.AttachPeer) -> None:
        if self.clients.of(identity) is not None or self.inbound.links.of(identity) is not None:
            raise ProtocolError("this connection is attached already")
        self._say(identity, self.inbound.links.attach(identity, user, message))

    def _dispatch(self, identity: bytes, message: m.ClientToBulk | m.PeerToBulk) -> None:
        """Give a message to its kind of connection, which may say its own messages only."""
        client, link = self.clients.of(identity), self.inbound.links.of(identity)
        if link is not None and isinstance(message, PEER_MESSAGES):
            self.inbound.receive(link, message)
        elif client is not None and isinstance(message, CLIENT_MESSAGES):
            self.clients.receive(client, message)
        elif client is None and link is None:
            self._say(identity, m.Detached())
        else:
            raise ProtocolError(f"{type(message).__name__} is not for this kind of connection")

    def _say(self, identity: bytes, message: m.BulkToClient | m.BulkToPeer) -> bool:
        try:
            self._socket.send_multipart([identity, codec.encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            log.debug("bulk peer went away: %s", error)
            return False
        return True


PEER_MESSAGES = (m.TensorBegin, m.Chunk, m.TensorFailed, m.PeerPing)
CLIENT_MESSAGES = (
    m.UploadBegin, m.Chunk, m.UploadAbort, m.Credit, m.Cancel, m.AdmitPeer,
    m.DismissPeer, m.OpenPeer, m.ClosePeer, m.MeasurePeer,
)  # fmt: skip
