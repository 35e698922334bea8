"""The receiver of links: what other workers say on the bulk socket. Runs in the bulk thread."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

from dynamo_genie.errors import DaemonUnavailable, GenieError, ProtocolError
from dynamo_genie.remote_daemon.channel.error_record import error_record
from dynamo_genie.remote_daemon.channel.frame_reader import FrameReader
from dynamo_genie.remote_daemon.transfer.chunks import receive_chunk
from dynamo_genie.remote_daemon.transfer.inbound_links import InboundLink, InboundLinks
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.limits import CREDIT_EVERY

log = logging.getLogger(__name__)

Say: TypeAlias = "Callable[[bytes, m.BulkToClient | m.BulkToPeer], bool]"
"""Sends a message to a connection; False when that is gone."""


class LinkReceiver:
    """Takes tensors from other workers into the arrivals of the sessions that they are for."""

    def __init__(self, reader: FrameReader, say: Say, links: InboundLinks) -> None:
        self._reader = reader
        self._say = say
        self.links = links

    def dismiss(self, session: bytes, message: m.DismissPeer) -> None:
        """Expect nothing more from a link."""
        link = self.links.dismiss(session, message.link)
        if link is not None:
            self._cut(link, f"was given up by the client before the tensor came: {message.reason}")

    def receive(self, link: InboundLink, message: m.PeerToBulk) -> None:
        """Take one message of an attached link; `Chunk`'s second frame is still in the socket.

        Raises:
            GenieError: It is wrong; that concerns this link only.
        """
        match message:
            case m.TensorBegin():
                self._count_taken(link)
                self._begin(link, message)
            case m.Chunk():
                self._count_taken(link)
                self._take_chunk(link, message)
            case m.TensorFailed():
                self._count_taken(link)
                link.arrivals.fail(link.number, message.transfer, message.error)
            case m.PeerPing():
                self._say(link.identity, m.PeerPong(message.number))
            case m.AttachPeer():
                raise ProtocolError("the link is open already")

    def probe(self) -> None:
        """Find out which links that somebody waits for are cut: the socket knows, once it is asked to send."""
        for link in self.links.awaited():
            if not self._say(link.identity, m.Credit(0)):
                self.links.dismiss(link.session, link.number)
                self._cut(link, "was cut before the tensor came; is the sending worker still there?")

    def _begin(self, link: InboundLink, message: m.TensorBegin) -> None:
        try:
            link.arrivals.begin(link.number, message)
        except GenieError as error:
            link.arrivals.fail(link.number, message.transfer, error_record(error, "ReceiveTensor"))
            raise

    def _take_chunk(self, link: InboundLink, chunk: m.Chunk) -> None:
        key = (link.number, chunk.transfer)
        try:
            if receive_chunk(self._reader, link.arrivals.staging, key, chunk.offset, digest=False):
                link.arrivals.complete(*key)
        except ProtocolError as error:
            link.arrivals.fail(*key, error_record(error, "ReceiveTensor"))
            raise

    def _count_taken(self, link: InboundLink) -> None:
        link.taken += 1
        if link.taken % CREDIT_EVERY == 0:
            self._say(link.identity, m.Credit(CREDIT_EVERY))

    def _cut(self, link: InboundLink, what: str) -> None:
        error = DaemonUnavailable(f"the link from {link.describe()} {what}")
        log.info("%s", error)
        link.arrivals.cut(link.number, error_record(error, "ReceiveTensor"))
