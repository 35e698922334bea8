"""Outbound links, by which this worker sends tensors to others: one DEALER socket each, owned by the bulk thread.

A link is spoken of in two places that have no order between them: the client opens it on the bulk connection, and
commands send through it. What is sent before it is open waits for it, for a while.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import zmq

from dynamo_genie.errors import GenieError, ProtocolError, QuotaExceeded
from dynamo_genie.remote_daemon.channel.sockets import Socket, connect_link
from dynamo_genie.remote_daemon.transfer.link_measurement import LinkMeasurement
from dynamo_genie.remote_daemon.transfer.mailboxes import SessionMailbox, SessionMailboxes
from dynamo_genie.remote_daemon.transfer.outgoing import Outgoing
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.limits import UPLOAD_WINDOW
from dynamo_genie.runtime.wire.version import PROTOCOLS

log = logging.getLogger(__name__)

MAX_LINKS, MAX_LINKS_OF_WORKER = 64, 256
"""Links out of one session, and of all together: each is a socket."""

CONNECT_S = 5.0
"""A link that is not open by then has failed."""

STALL_S = 15.0
"""A link that wants to send and hears nothing for so long has failed."""

MEASURE_S = 20.0

Answer = Callable[[m.PeerMeasured], None]


@dataclass
class Measuring:
    """A measurement under way and who asked for it."""

    request_id: int
    answer: Answer
    deadline: float
    state: LinkMeasurement | None = None


@dataclass
class OutboundLink:
    """One link. Without a socket it was spoken of, but not opened yet."""

    mailbox: SessionMailbox
    number: int
    since: float
    endpoint: str = ""
    opened: m.OpenPeer | None = None
    socket: Socket | None = None
    attached: bool = False
    credits: int = UPLOAD_WINDOW
    queue: deque[Outgoing] = field(default_factory=deque)
    measuring: Measuring | None = None
    heard_at: float = 0.0

    @property
    def key(self) -> tuple[bytes, int]:
        """The session and the client's number of the link."""
        return self.mailbox.session, self.number


class OutboundLinks:
    """All links out of this worker. `watch` and `unwatch` tell the poller of the thread about sockets."""

    def __init__(
        self,
        context: zmq.Context[Socket],
        mailboxes: SessionMailboxes,
        watch: Callable[[Socket, Callable[[], None]], None],
        unwatch: Callable[[Socket], None],
    ) -> None:
        self._context = context
        self._mailboxes = mailboxes
        self._watch = watch
        self._unwatch = unwatch
        self._links: dict[tuple[bytes, int], OutboundLink] = {}

    def __len__(self) -> int:
        return len(self._links)

    # --- what the client says --------------------------------------------------------------------------------

    def open(self, mailbox: SessionMailbox, message: m.OpenPeer) -> None:
        """Connect to another worker.

        Raises:
            ProtocolError: The number is in use.
            QuotaExceeded: The session has too many links.
            OptionError: The endpoint is none.
        """
        link = self._link(mailbox, message.link)
        if link.opened == message:
            return  # said again, after the client's connection broke
        if link.socket is not None or message.link in mailbox.link_failures:
            raise ProtocolError(f"link {message.link} was opened before")
        link.opened, link.endpoint, link.since = message, message.endpoint, time.monotonic()
        link.socket = connect_link(self._context, message.endpoint, message.keys)
        self._watch(link.socket, lambda: self._receive(link))
        self._say(link, m.AttachPeer(1, message.token, PROTOCOLS[-1]))

    def close(self, session: bytes, number: int) -> None:
        """Close a link; what it has not sent is dropped."""
        link = self._links.pop((session, number), None)
        if link is None:
            return
        link.mailbox.link_failures.pop(number, None)
        self._shut(link, "the link was closed")

    def forget(self, session: bytes) -> None:
        """Close the links of a session that ended."""
        for number in [key[1] for key in self._links if key[0] == session]:
            self.close(session, number)

    def measure(self, mailbox: SessionMailbox, message: m.MeasurePeer, answer: Answer) -> None:
        """Find out how fast a link is and answer, in the end."""
        link = self._link(mailbox, message.link)
        problem = mailbox.link_failures.get(message.link)
        if problem is None and link.measuring is not None:
            problem = "the link is being measured already"
        if problem is not None:
            answer(m.PeerMeasured(message.request_id, 0.0, 0.0, problem))
            return
        link.measuring = Measuring(message.request_id, answer, time.monotonic() + MEASURE_S)
        if link.attached:
            self._start_measuring(link)

    # --- what the executor says ------------------------------------------------------------------------------

    def send(self, mailbox: SessionMailbox, number: int, outgoing: Outgoing) -> None:
        """Send a tensor, or word that there is none."""
        try:
            link = self._link(mailbox, number)
        except GenieError as error:
            log.warning("a tensor was not sent: %s", error)
            outgoing.drop()
            return
        if number in mailbox.link_failures:
            outgoing.drop()
            return
        if not link.queue:
            link.heard_at = time.monotonic()  # a link that had nothing to do owes us nothing
        link.queue.append(outgoing)
        self._pump(link)

    def tick(self, now: float) -> None:
        """Notice what takes too long."""
        for link in list(self._links.values()):
            if link.number in link.mailbox.link_failures:
                continue
            if not link.attached and now > link.since + CONNECT_S:
                where = f"the worker at {link.endpoint} from this one" if link.endpoint else "it"
                self._fail(link, f"link {link.number} did not open: nobody let us in at {where} in {CONNECT_S:g} s")
            elif link.queue and link.attached and now > link.heard_at + STALL_S:
                self._fail(link, f"the worker at {link.endpoint} took nothing for {STALL_S:g} s")
            elif link.measuring is not None and now > link.measuring.deadline:
                self._answer(link, m.PeerMeasured(0, 0.0, 0.0, f"no answer from {link.endpoint} in {MEASURE_S:g} s"))

    # --- the socket ------------------------------------------------------------------------------------------

    def _link(self, mailbox: SessionMailbox, number: int) -> OutboundLink:
        """Return a link, noting one that nobody spoke of before."""
        link = self._links.get((mailbox.session, number))
        if link is not None:
            return link
        if not self._mailboxes.knows(mailbox.session):
            raise ProtocolError("the session has ended")
        if sum(key[0] == mailbox.session for key in self._links) >= MAX_LINKS:
            raise QuotaExceeded(f"more than {MAX_LINKS} links out of one session")
        if len(self._links) >= MAX_LINKS_OF_WORKER:
            raise QuotaExceeded(f"more than {MAX_LINKS_OF_WORKER} links out of one worker")
        link = OutboundLink(mailbox, number, time.monotonic())
        self._links[link.key] = link
        return link

    def _receive(self, link: OutboundLink) -> None:
        while link.socket is not None:
            try:
                frames = link.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                self._heard(link, codec.bulk_to_peer(frames[0]))
            except GenieError as error:
                self._fail(link, f"the worker at {link.endpoint} speaks otherwise: {error}")

    def _heard(self, link: OutboundLink, message: m.BulkToPeer) -> None:
        link.heard_at = time.monotonic()
        match message:
            case m.Attached():
                link.attached = True
                if link.measuring is not None:
                    self._start_measuring(link)
            case m.Credit():
                link.credits = min(link.credits + message.chunks, UPLOAD_WINDOW)
            case m.PeerPong():
                self._pong(link, message)
            case m.BulkFailed() if message.transfer:
                self._refused(link, message.transfer)
            case m.Detached():
                self._fail(link, f"the connection to the worker at {link.endpoint} was cut")
            case m.BulkFailed():
                self._fail(link, f"the worker at {link.endpoint} ended the link: {message.message}")
        self._pump(link)

    def _pump(self, link: OutboundLink) -> None:
        while link.attached and link.queue and link.credits > 0:
            outgoing = link.queue[0]
            frames, sent = outgoing.next_frames()
            link.mailbox.traffic.count_sent(outgoing.kind, sent)  # first: who gets it may ask at once
            if not self._hand_over(link, frames):
                link.mailbox.traffic.count_sent(outgoing.kind, -sent)
                return
            link.credits -= 1
            if outgoing.advance(sent):
                link.queue.popleft().drop()

    def _refused(self, link: OutboundLink, transfer: int) -> None:
        """The other side has no room for a tensor, and tells its own client so."""
        for outgoing in [outgoing for outgoing in link.queue if outgoing.transfer == transfer]:
            link.queue.remove(outgoing)
            outgoing.drop()

    def _say(self, link: OutboundLink, message: m.PeerToBulk) -> None:
        self._hand_over(link, [codec.encode(message)])

    def _hand_over(self, link: OutboundLink, frames: list[bytes | memoryview]) -> bool:
        assert link.socket is not None
        try:
            link.socket.send_multipart(frames, zmq.NOBLOCK, copy=len(frames) == 1)
            return True
        except zmq.ZMQError as error:
            self._fail(link, f"cannot send to the worker at {link.endpoint}: {error}")
            return False

    def _fail(self, link: OutboundLink, problem: str) -> None:
        """Give a link up: its socket closes at once, its number stays taken until the client closes it."""
        log.warning("link %d: %s", link.number, problem)
        link.mailbox.link_failures[link.number] = problem
        self._shut(link, problem)

    def _shut(self, link: OutboundLink, problem: str) -> None:
        while link.queue:
            link.queue.popleft().drop()
        self._answer(link, m.PeerMeasured(0, 0.0, 0.0, problem))
        if link.socket is not None:
            self._unwatch(link.socket)
            link.socket.close(linger=0)
            link.socket, link.attached = None, False

    # --- measuring -------------------------------------------------------------------------------------------

    def _start_measuring(self, link: OutboundLink) -> None:
        assert link.measuring is not None
        link.measuring.state = LinkMeasurement(time.monotonic())
        for ping in link.measuring.state.start():
            self._say(link, ping)

    def _pong(self, link: OutboundLink, pong: m.PeerPong) -> None:
        if link.measuring is None or link.measuring.state is None:
            return
        found = link.measuring.state.pong(pong.number, time.monotonic())
        if isinstance(found, m.PeerMeasured):
            self._answer(link, found)
            return
        for ping in found:
            self._say(link, ping)

    def _answer(self, link: OutboundLink, measured: m.PeerMeasured) -> None:
        measuring, link.measuring = link.measuring, None
        if measuring is not None:
            measuring.answer(msgspec.structs.replace(measured, request_id=measuring.request_id))
