"""The sessions that are attached to a worker, each with what it sent, and on which connection it is at present."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeAlias

from dynamo_genie.errors import ProtocolError, SessionLost
from dynamo_genie.remote_daemon.channel.inbox import MAX_WAITING_BATCHES, MAX_WAITING_NBYTES, Inbox
from dynamo_genie.remote_daemon.transfer.mailboxes import SessionMailbox, SessionMailboxes
from dynamo_genie.remote_daemon.worker.command_stream import CommandStream
from dynamo_genie.remote_daemon.worker.failures import describe_failure
from dynamo_genie.remote_daemon.worker.sessions import WorkerSession
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.limits import WINDOW_BATCHES

MAX_EARLY = 64
"""Clients remembered that tried to attach before the supervisor's word about them; their connects time out."""

Stream: TypeAlias = CommandStream[WorkerSession]
OpenSession = Callable[[SessionMailbox], WorkerSession]
Replies: TypeAlias = "list[m.WorkerToClient]"


class AttachedSession:
    """A session whose client is attached on the connection `peer`: its commands, and what of them waits for a turn."""

    def __init__(self, stream: Stream, peer: bytes) -> None:
        self.stream = stream
        self.peer = peer
        self.inbox = Inbox()

    def give_up(self) -> SessionLost:
        """End a session of which more waits than may wait; return what its client is told."""
        self.inbox.clear()
        return self.stream.give_up(
            f"more than {MAX_WAITING_NBYTES:,} bytes or {MAX_WAITING_BATCHES:,} batches of commands wait to run; "
            f"a client waits when {WINDOW_BATCHES} of its batches do"
        )

    def move(self, peer: bytes) -> None:
        """Take another connection for the session's; what waits was sent on the last one, and is sent again on this."""
        if peer != self.peer:
            self.inbox.clear()
            self.peer = peer


class AttachedSessions:
    """Every attached session, by its number and by its connection. `find` is for any thread.

    Attributes:
        on: Returns the session that is attached on a connection, if one is.
    """

    def __init__(self, mailboxes: SessionMailboxes, open_session: OpenSession) -> None:
        """Attach sessions that have a mailbox; `open_session` makes one."""
        self._mailboxes = mailboxes
        self._open_session = open_session
        self._early: deque[tuple[bytes, m.Attach]] = deque(maxlen=MAX_EARLY)
        self._by_number: dict[bytes, AttachedSession] = {}
        self._by_peer: dict[bytes, AttachedSession] = {}
        self.on = self._by_peer.get

    def __len__(self) -> int:
        return len(self._by_peer)

    def find(self, number: bytes) -> Stream | None:
        """Return the stream of a session."""
        attached = self._by_number.get(number)
        return attached.stream if attached is not None else None

    def attach(self, peer: bytes, message: m.Attach) -> Replies:
        """Attach a session on a connection; raises `ProtocolError` where it may not."""
        if not self._mailboxes.knows(message.session):
            self._early.append((peer, message))  # the supervisor's word is still on its way
            return []
        mailbox = self._mailboxes.attach(message.session, message.token)
        if mailbox is None:
            raise ProtocolError("no such session, or a wrong token")
        attached = self._by_number.get(message.session)
        if attached is None:
            session = self._open_session(mailbox)
            attached = AttachedSession(CommandStream(session, session.host_budget), peer)
            self._by_number[message.session] = attached
        self._forget_connection(attached)  # what still comes there was sent again on this one
        attached.move(peer)
        self._by_peer[peer] = attached
        return attached.stream.attached(message.request_id)

    def attach_early(self) -> Iterator[tuple[bytes, Replies]]:
        """Try again the clients that came before the supervisor's word about them; the others wait on."""
        for _ in range(len(self._early)):
            peer, message = self._early.popleft()
            try:
                yield peer, self.attach(peer, message)
            except ProtocolError as error:
                yield peer, [m.Failed(message.request_id, describe_failure(error))]

    def close_dropped(self) -> list[AttachedSession] | None:
        """Close the sessions that were dropped since the last time and return those; None where no session was."""
        dropped = self._mailboxes.take_dropped()
        closed = []
        for number in dropped:
            attached = self._by_number.pop(number, None)
            if attached is not None:
                attached.stream.close()
                self._forget_connection(attached)
                closed.append(attached)
        return closed if dropped else None

    def _forget_connection(self, attached: AttachedSession) -> None:
        if self._by_peer.get(attached.peer) is attached:
            del self._by_peer[attached.peer]
