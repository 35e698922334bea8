"""Clients' bulk connections: their uploads, their downloads, and what they say about links. In the bulk thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import zmq

from dynamo_genie.remote_daemon.channel.frame_reader import FrameReader
from dynamo_genie.remote_daemon.transfer.chunks import receive_chunk
from dynamo_genie.remote_daemon.transfer.downloads import ClientDownloads, Download, Downloads
from dynamo_genie.remote_daemon.transfer.link_receiver import LinkReceiver, Say
from dynamo_genie.remote_daemon.transfer.mailboxes import SessionMailbox
from dynamo_genie.remote_daemon.transfer.outbound_links import OutboundLinks
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.limits import CREDIT_EVERY

Cancel: TypeAlias = Callable[[bytes, int], None]
"""Told a session, and the last of its batches for which nobody waits any more."""


@dataclass
class ClientConnection:
    """One client's bulk connection."""

    identity: bytes
    mailbox: SessionMailbox
    outgoing: ClientDownloads
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
        cancel: Cancel,
    ) -> None:
        self._socket = socket
        self._reader = reader
        self._cancel = cancel
        self._say = say
        self._inbound = inbound
        self._outbound = outbound
        self._downloads = Downloads(socket, say)
        self._connections: dict[bytes, ClientConnection] = {}

    def attach(self, identity: bytes, mailbox: SessionMailbox) -> None:
        """Take a connection in, for a session, in the place of its last one; downloads on the way are over."""
        self.forget(mailbox.session)
        mailbox.bulk_identity = identity
        self._connections[identity] = ClientConnection(identity, mailbox, self._downloads.open(identity))

    def of(self, identity: bytes) -> ClientConnection | None:
        """Return the client that is attached on a connection."""
        return self._connections.get(identity)

    def forget(self, session: bytes) -> None:
        """Let go of a dropped session's connections and of what waits for them."""
        for identity in [i for i, client in self._connections.items() if client.mailbox.session == session]:
            self._downloads.close(self._connections.pop(identity).outgoing)

    def tick(self) -> None:
        """Go on with downloads that had to wait; called now and then."""
        self._downloads.tick()

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
            case m.Cancel():
                self._cancel(mailbox.session, message.sequence)
            case m.UploadAbort():
                mailbox.staging.abort(message.upload)
            case m.Credit():
                self._downloads.credit(client.outgoing, message.chunks)
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
        """Send a snapshot that the executor has handed over."""
        client = self._connections.get(mailbox.bulk_identity)
        if client is None:
            download.snapshot.end()
        else:
            self._downloads.start(client.outgoing, download)

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
