"""The worker's executor thread: reads the control socket, runs commands, answers. It alone owns the tensors.

Reading the socket in the thread that runs the commands saves two thread hand-overs in every call. Liveness does
not depend on it: the supervisor keeps leases, and the bulk thread talks to it.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import zmq

from dynamo_genie.errors import GenieError, ProtocolError
from dynamo_genie.remote_daemon.channel.message_reader import Received
from dynamo_genie.remote_daemon.channel.wakeup import Wakeup
from dynamo_genie.remote_daemon.memory.host_memory import trim_host_memory
from dynamo_genie.remote_daemon.transfer.mailboxes import SessionMailbox, SessionMailboxes
from dynamo_genie.remote_daemon.worker.command_stream import CommandStream
from dynamo_genie.remote_daemon.worker.device_loss import DeviceLost
from dynamo_genie.remote_daemon.worker.failures import describe_failure
from dynamo_genie.remote_daemon.worker.sessions import WorkerSession
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m

log = logging.getLogger(__name__)

LOOK_AROUND_MS = 20
"""How long the thread waits for a message before it looks for news; a poller would cost every call some us."""

MAX_EARLY = 64
"""Clients remembered that tried to attach before the supervisor's word about them; their connects time out."""


class Reader(Protocol):
    """Brings the messages of a socket."""

    def receive(self, flags: int = 0, /) -> Received:
        """Return the next message, or raise `zmq.Again`."""


OpenSession = Callable[[SessionMailbox], WorkerSession]
Stream: TypeAlias = CommandStream[WorkerSession]


class Executor:
    """Runs every session's commands, one batch at a time, fairly between connections.

    A session that waits for another worker is suspended: it keeps its place, and the others go on. Only then the
    thread polls, for messages and for `wakeup`, which the bulk thread sets when what is waited for is there.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        reader: Reader,
        mailboxes: SessionMailboxes,
        open_session: OpenSession,
        wakeup: Wakeup,
        synchronize: Callable[[], None],
    ) -> None:
        """Serve on `socket`, whose messages `reader` brings.

        `synchronize` waits until what was launched on the device is through.
        """
        self._socket = socket
        self._reader = reader
        self._wakeup = wakeup
        self._poller = zmq.Poller()
        self._poller.register(socket, zmq.POLLIN)
        self._poller.register(wakeup.fileno(), zmq.POLLIN)
        self._suspended: dict[Stream, bytes] = {}
        self._mailboxes = mailboxes
        self._open_session = open_session
        self._synchronize = synchronize
        self._launched: tuple[WorkerSession, bytes] | None = None
        self._news = False
        self._ended = False
        self._draining = False
        self._by_identity: dict[bytes, Stream] = {}
        self._early: deque[tuple[bytes, m.Attach]] = deque(maxlen=MAX_EARLY)
        self._streams: dict[bytes, Stream] = {}

    def session(self, number: bytes) -> WorkerSession | None:
        """Return an attached session; may be called from any thread."""
        stream = self._streams.get(number)
        return stream.session if stream is not None else None

    def cancel(self, number: bytes, sequence: int) -> None:
        """Let calls of a session fail that nobody waits for any more; called from another thread."""
        stream = self._streams.get(number)
        if stream is not None:
            stream.cancelled = max(stream.cancelled, sequence)

    def end(self, number: bytes) -> None:
        """Run nothing more of a session that is over; called from another thread."""
        stream = self._streams.get(number)
        if stream is not None:
            stream.ended = True
        self.wake()

    def unwanted(self, number: bytes) -> bool:
        """Whether something of a session runs, or is to run, that nobody waits for; called from another thread."""
        stream = self._streams.get(number)
        return stream is not None and stream.unwanted

    def wake(self) -> None:
        """Make the thread look for admitted and dropped sessions soon; called from another thread."""
        self._news = True

    def drain(self) -> None:
        """Make `serve` return after the batch in hand; called from another thread."""
        self._draining = True

    def serve(self) -> None:
        """Run until drained.

        Raises:
            DeviceLost: A session's command made the device unusable; that session has been told.
        """
        self._socket.rcvtimeo = LOOK_AROUND_MS
        while not self._draining:
            if self._news:
                self._news = False
                self._close_dropped()
                self._attach_early()
            if self._suspended:
                self._wakeup.clear()
                self._resume_suspended()
            if not self._receive():
                self.idle()

    def idle(self) -> None:
        """Do what can wait until no message does: return memory of sessions that ended to the system."""
        if self._ended:
            self._ended = False
            trim_host_memory()  # about a millisecond; a worker kept hundreds of MiB after a thousand sessions

    def _receive(self) -> bool:
        """Take a message, if one comes soon; return whether anything came, a wake-up included."""
        flags, ready = 0, False
        if self._suspended:
            ready = bool(self._poller.poll(self._pause_ms()))
            flags = zmq.NOBLOCK
        try:
            received = self._reader.receive(flags)
        except zmq.Again:
            return ready
        identity, data = received.peer, received.frame.buffer
        stream: Stream | None = None
        replies: Sequence[m.WorkerToClient]
        try:
            if received.surplus:
                raise ProtocolError(f"a control message has one frame, not {received.surplus + 1}")
            message = codec.client_to_worker(data)
            if isinstance(message, m.Batch):
                stream = self._by_identity.get(identity)
                replies = self._take(stream, identity, message, len(data)) if stream else [m.Detached()]
            else:
                replies = self._attach(identity, message)
        except (GenieError, MemoryError) as error:
            replies = [m.Failed(0, describe_failure(error))]
        self._send(identity, replies)
        if stream is not None:
            self._check_device(stream.session)
        return True

    def _take(self, stream: Stream, identity: bytes, batch: m.Batch, nbytes: int) -> list[m.WorkerToClient]:
        self._take_turn(stream.session, identity)
        replies = stream.take(batch, nbytes, time.monotonic())
        if stream.due is not None:
            self._suspended[stream] = identity
        return replies

    def _take_turn(self, session: WorkerSession, identity: bytes) -> None:
        """Let another session launch only after what the last one launched is through: a failure is its own."""
        if self._launched is not None and self._launched[0] is not session:
            last, whose = self._launched
            try:
                self._synchronize()
            except RuntimeError as error:
                failure = describe_failure(error)
                self._send(whose, [m.Failed(0, failure)])
                last.lost_device = failure.message.splitlines()[0]
                self._check_device(last)
        self._launched = (session, identity)

    def _check_device(self, session: WorkerSession) -> None:
        if session.lost_device:
            raise DeviceLost(f"a program of one of its sessions made the device unusable: {session.lost_device}")

    def _resume_suspended(self) -> None:
        """Give each suspended session the chance to go on, with one batch at most."""
        for stream, identity in list(self._suspended.items()):
            self._take_turn(stream.session, identity)
            self._send(identity, stream.resume(time.monotonic()))
            self._check_device(stream.session)
            if stream.due is None:
                del self._suspended[stream]

    def _pause_ms(self) -> int:
        """Return how long nothing can happen but a message or a wake-up."""
        due = min((stream.due or 0.0 for stream in self._suspended), default=0.0)
        return max(0, min(LOOK_AROUND_MS, math.ceil((due - time.monotonic()) * 1000)))

    def _attach(self, identity: bytes, message: m.Attach) -> list[m.WorkerToClient]:
        if not self._mailboxes.knows(message.session):
            self._early.append((identity, message))  # the supervisor's word is still on its way
            return []
        mailbox = self._mailboxes.attach(message.session, message.token)
        if mailbox is None:
            raise ProtocolError("no such session, or a wrong token")
        stream = self._streams.get(message.session)
        if stream is None:
            session = self._open_session(mailbox)
            stream = self._streams[message.session] = CommandStream(session, session.host_budget)
        self._forget_connections(stream)  # a session has one; what still comes on another was sent again on this one
        self._by_identity[identity] = stream
        if stream in self._suspended:
            self._suspended[stream] = identity
        return stream.attached(message.request_id)

    def _attach_early(self) -> None:
        """Try again the clients that came before the supervisor's word about them; the others wait on."""
        for _ in range(len(self._early)):
            identity, message = self._early.popleft()
            try:
                replies = self._attach(identity, message)
            except ProtocolError as error:
                replies = [m.Failed(message.request_id, describe_failure(error))]
            self._send(identity, replies)

    def _close_dropped(self) -> None:
        for session in self._mailboxes.take_dropped():
            stream = self._streams.pop(session, None)
            if stream is not None:
                stream.close()
                if self._launched is not None and self._launched[0] is stream.session:
                    self._launched = None
                self._suspended.pop(stream, None)
                self._forget_connections(stream)
            self._ended = True

    def _forget_connections(self, stream: Stream) -> None:
        self._by_identity = {i: s for i, s in self._by_identity.items() if s is not stream}

    def _send(self, identity: bytes, replies: Sequence[m.WorkerToClient]) -> None:
        for reply in replies:
            try:
                self._socket.send(identity, zmq.SNDMORE | zmq.NOBLOCK)
                self._socket.send(codec.encode(reply), zmq.NOBLOCK)
            except zmq.ZMQError as error:
                log.debug("client went away before its answer: %s", error)
