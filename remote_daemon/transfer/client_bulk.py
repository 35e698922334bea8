"""Clients' bulk connections: their uploads, their downloads, and what they say about links. In the bulk thread."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field

import zmq

from dynamo_genie.remote_daemon.channel.frame_reader import FrameReader
from dynamo_genie.remote_daemon.transfer.chunks import receive_chunk
from dynamo_genie.remote_daemon.transfer.link_receiver import LinkReceiver, Say
from dynamo_genie.remote_daemon.transfer.mailboxes import SessionMailbox
from dynamo_genie.remote_daemon.transfer.outbound_links import OutboundLinks
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.limits import CHUNK_NBYTES, CREDIT_EVERY, UPLOAD_WINDOW

log = logging.getLogger(__name__)


@dataclass
class Download:
    """A result on its way to a client."""

    number: int
    data: memoryview
    sent: int = 0


@dataclass
class ClientConnection:
    """One client's bulk connection."""

    identity: bytes
    mailbox: SessionMailbox
    outgoing: deque[Download] = field(default_factory=deque)
    credits: int = UPLOAD_WINDOW
    taken: int = 0


class ClientBulk:
    """All bulk connections of clients."""

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        reader: FrameReader,
        say: Say,
        inbound: LinkReceiver,
        outbound: OutboundLinks,
    ) -> None:
        self._socket = socket
        self._reader = reader
        self._say = say
        self._inbound = inbound
        self._outbound = outbound
        self._connections: dict[bytes, ClientConnection] = {}

    def attach(self, identity: bytes, mailbox: SessionMailbox) -> None:
        """Take a connection in, for a session, in the place of its last one; downloads on the way are over."""
        self.forget(mailbox.session)
        mailbox.bulk_identity = identity
        self._connections[identity] = ClientConnection(identity, mailbox)

    def of(self, identity: bytes) -> ClientConnection | None:
        """Return the client that is attached on a connection."""
        return self._connections.get(identity)

    def forget(self, session: bytes) -> None:
        """Let go of a dropped session's connections and of what waits for them."""
        self._connections = {i: c for i, c in self._connections.items() if c.mailbox.session != session}

    def receive(self, client: ClientConnection, message: m.ClientToBulk) -> None:
        """Take one message; `Chunk`'s second frame is still in the socket.

        Raises:
            GenieError: It is wrong; that concerns this client only.
        """
        mailbox = client.mailbox
        match message:
            case m.Chunk():
                self._take_chunk(client, message)
            case m.UploadBegin():
                mailbox.staging.begin(message.upload, message.nbytes)
                if message.nbytes == 0:
                    self._say(client.identity, m.UploadDone(message.upload))
            case m.UploadAbort():
                mailbox.staging.abort(message.upload)
            case m.Credit():
                client.credits += min(message.chunks, UPLOAD_WINDOW)
                self._pump(client)
            case m.AdmitPeer():
                links = self._inbound.links
                self._say(client.identity, links.admit(mailbox.session, mailbox.arrivals, message))
            case m.DismissPeer():
                self._inbound.dismiss(mailbox.session, message)
            case m.OpenPeer():
                self._outbound.open(mailbox, message)
            case m.ClosePeer():
                self._outbound.close(mailbox.session, message.link)
            case m.MeasurePeer():
                self._outbound.measure(mailbox, message, lambda answer: self._tell(mailbox, answer))

    def start_download(self, mailbox: SessionMailbox, download: Download) -> None:
        """Send bytes that the executor has handed over."""
        client = self._connections.get(mailbox.bulk_identity)
        if client is not None:
            client.outgoing.append(download)
            self._pump(client)

    def _tell(self, mailbox: SessionMailbox, answer: m.PeerMeasured) -> None:
        self._say(mailbox.bulk_identity, answer)

    def _take_chunk(self, client: ClientConnection, chunk: m.Chunk) -> None:
        """Receive a chunk into its place. A chunk of an upload that was refused is dropped, credit and all."""
        client.taken += 1
        if client.taken % CREDIT_EVERY == 0:
            self._say(client.identity, m.Credit(CREDIT_EVERY))
        staging = client.mailbox.staging
        if receive_chunk(self._reader, staging, chunk.transfer, chunk.offset, digest=True):
            staging.finish(chunk.transfer)
            self._say(client.identity, m.UploadDone(chunk.transfer))

    def _pump(self, client: ClientConnection) -> None:
        while client.outgoing and client.credits > 0:
            download = client.outgoing[0]
            header = codec.encode(m.Chunk(download.number, download.sent))
            data = download.data[download.sent : download.sent + CHUNK_NBYTES]
            try:
                self._socket.send_multipart([client.identity, header, data], zmq.NOBLOCK, copy=False)
            except zmq.ZMQError as error:
                log.debug("bulk peer went away: %s", error)
                client.outgoing.clear()
                return
            client.credits -= 1
            download.sent += len(data)
            if download.sent >= len(download.data):
                client.outgoing.popleft()
