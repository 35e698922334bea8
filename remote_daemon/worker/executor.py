"""The worker's executor thread: reads the control socket, runs commands, answers. It alone owns the tensors.

Reading the socket in the thread that runs the commands saves two thread hand-overs in every call. Liveness does
not depend on it: the supervisor keeps leases, and the bulk thread talks to it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import zmq

from dynamo_genie.errors import GenieError, ProtocolError
from dynamo_genie.remote_daemon.channel.inbox import Encoded
from dynamo_genie.remote_daemon.channel.message_reader import Received
from dynamo_genie.remote_daemon.channel.turns import Turns
from dynamo_genie.remote_daemon.channel.wakeup import Wakeup
from dynamo_genie.remote_daemon.memory.host_memory import trim_host_memory
from dynamo_genie.remote_daemon.worker.attached_sessions import AttachedSession, AttachedSessions
from dynamo_genie.remote_daemon.worker.device_loss import DeviceLost
from dynamo_genie.remote_daemon.worker.failures import describe_failure
from dynamo_genie.remote_daemon.worker.sessions import WorkerSession
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m

log = logging.getLogger(__name__)

LOOK_AROUND_MS = 20
"""How long the thread waits for a message before it looks for news; a poller would cost every call some us."""

TURN_S = 0.005
"""How long a session's turn may be before another call of its batch begins."""


class Reader(Protocol):
    """Brings the messages of a socket."""

    def receive(self, flags: int = 0, /) -> Received:
        """Return the next message, or raise `zmq.Again`."""

    def readable(self) -> bool:
        """Whether there is one."""


class Executor:
    """Runs every session's commands, one batch a turn at most; the turn is that of who has used the least time.

    A session that waits for another worker is suspended: it has no turn, and the others go on. Only then the thread
    polls, for messages and for `wakeup`, which the bulk thread sets when what is waited for is there.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        reader: Reader,
        sessions: AttachedSessions,
        wakeup: Wakeup,
        synchronize: Callable[[], None],
    ) -> None:
        """Serve `sessions` on `socket`, whose messages `reader` brings.

        `synchronize` waits until what was launched on the device is through.
        """
        self._socket = socket
        self._reader = reader
        self._sessions = sessions
        self._wakeup = wakeup
        self._poller = zmq.Poller()
        self._poller.register(socket, zmq.POLLIN)
        self._poller.register(wakeup.fileno(), zmq.POLLIN)
        self._synchronize = synchronize
        self._turns: Turns[AttachedSession] = Turns()
        self._turn_ends = 0.0
        self._suspended: list[AttachedSession] = []
        self._next_look = math.inf
        self._launched: AttachedSession | None = None
        self._news = False
        self._ended = False
        self._draining = False

    def session(self, number: bytes) -> WorkerSession | None:
        """Return an attached session; may be called from any thread."""
        stream = self._sessions.find(number)
        return stream.session if stream is not None else None

    def cancel(self, number: bytes, sequence: int) -> None:
        """Let calls of a session fail that nobody waits for any more; called from another thread."""
        stream = self._sessions.find(number)
        if stream is not None:
            stream.cancelled = max(stream.cancelled, sequence)

    def end(self, number: bytes) -> None:
        """Run nothing more of a session that is over; called from another thread."""
        stream = self._sessions.find(number)
        if stream is not None:
            stream.ended = True
        self.wake()

    def unwanted(self, number: bytes) -> bool:
        """Whether something of a session runs, or is to run, that nobody waits for; called from another thread."""
        stream = self._sessions.find(number)
        return stream is not None and stream.unwanted

    def wake(self) -> None:
        """Make the thread look for admitted and dropped sessions soon; called from another thread."""
        self._news = True

    def drain(self) -> None:
        """Make `serve` return after the turn in hand; called from another thread."""
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
                for peer, replies in self._sessions.attach_early():
                    self._send(peer, replies)
            if self._suspended:
                self._wake_suspended()
            came = self._take_messages()
            if self._turns.ready_members:
                self._take_turn()
            elif not came:
                self.idle()

    def idle(self) -> None:
        """Do what can wait until no message does: return memory of sessions that ended to the system."""
        if self._ended:
            self._ended = False
            trim_host_memory()  # about a millisecond; a worker kept hundreds of MiB after a thousand sessions

    # --- what comes ------------------------------------------------------------------------------------------

    def _take_messages(self) -> bool:
        """Take what has come, a message for each connection at most, so that whoever has work is known.

        Where nobody has any, wait for a moment. Return whether anything came, a wake-up included.
        """
        more = len(self._sessions) + 1
        if not self._turns.ready_members:
            flags, woken = 0, False
            if self._suspended:
                woken = self._poll(self._next_look - time.monotonic())
                flags = zmq.NOBLOCK
            try:
                self._receive(flags)
            except zmq.Again:
                return woken
            more -= 2  # the only session there is would be looked for in vain, and pay for it in every call
        while more > 0 and self._reader.readable():
            self._receive(zmq.NOBLOCK)
            more -= 1
        return True

    def _receive(self, flags: int) -> None:
        """Take a message: a batch waits for its session's turn, everything else is answered at once."""
        received = self._reader.receive(flags)
        attached = self._sessions.on(received.peer)
        if attached is None or received.surplus:
            self._answer(received)
        elif attached.stream.due is None and len(self._sessions) == 1 and not self._turns.ready_members:
            self._run(attached, received.frame.buffer)  # nobody to take turns with
            if attached.stream.unfinished:
                self._go_on(attached, time.monotonic())
        elif not attached.inbox.add(received.frame):
            self._send(received.peer, [m.Failed(0, describe_failure(attached.give_up()))])
        elif attached.stream.due is None:
            self._turns.ready(attached, time.monotonic())

    def _answer(self, received: Received) -> None:
        """Answer what is no message of an attached session."""
        replies: Sequence[m.WorkerToClient]
        try:
            if received.surplus:
                raise ProtocolError(f"a control message has one frame, not {received.surplus + 1}")
            message = codec.client_to_worker(received.frame.buffer)
            if isinstance(message, m.Batch):
                replies = [m.Detached()]
            else:
                replies = self._sessions.attach(received.peer, message)
        except (GenieError, MemoryError) as error:
            replies = [m.Failed(0, describe_failure(error))]
        self._send(received.peer, replies)

    def _poll(self, seconds: float) -> bool:
        """Wait so long for a message or a wake-up; return whether there is one."""
        return bool(self._poller.poll(max(0, min(LOOK_AROUND_MS, math.ceil(seconds * 1000)))))

    # --- turns -----------------------------------------------------------------------------------------------

    def _take_turn(self) -> None:
        """Run commands of the session whose turn it is, or wait for one that may come before it."""
        turns, now = self._turns, time.monotonic()
        attached = turns.begin(now)
        if attached is None:
            self._poll(turns.patience_s)
            turns.waited(time.monotonic() - now)
            return
        began = self._run(attached, None)
        ended = time.monotonic()
        turns.used(attached, ended - began)
        if attached.inbox.waiting or attached.stream.unfinished:
            self._go_on(attached, ended)
        else:
            turns.pause(attached, ended)

    def _go_on(self, attached: AttachedSession, now: float) -> None:
        """Let a session that has work have its next turn, or wait for what suspends it."""
        due = attached.stream.due
        if due is None:
            self._turns.ready(attached, now)
        else:
            self._suspended.append(attached)
            self._next_look = min(self._next_look, due, now + LOOK_AROUND_MS / 1000)

    def _run(self, attached: AttachedSession, data: Encoded | None) -> float:
        """Run a turn of a session, with a message that has just come or with what waits; return when it began."""
        if self._launched is not attached:
            self._wait_for_launched()
            self._launched = attached
        began = time.monotonic()
        self._turn_ends = began + TURN_S
        stream = attached.stream
        replies: Sequence[m.WorkerToClient] = ()
        try:
            if stream.unfinished:
                replies = stream.resume(began, self._turn_is_over)
            elif data is not None or attached.inbox.waiting:  # else it was attached anew
                data = attached.inbox.take() if data is None else data
                message = codec.client_to_worker(data)
                if isinstance(message, m.Batch):
                    replies = stream.take(message, len(data), began, self._turn_is_over)
                else:
                    replies = self._sessions.attach(attached.peer, message)
        except (GenieError, MemoryError) as error:
            replies = [m.Failed(0, describe_failure(error))]
        self._send(attached.peer, replies)
        self._check_device(stream.session)
        return began

    def _turn_is_over(self) -> bool:
        return time.monotonic() >= self._turn_ends

    def _wait_for_launched(self) -> None:
        """Let another session launch only after what the last one launched is through: a failure is its own."""
        last = self._launched
        if last is None:
            return
        began = time.monotonic()
        try:
            self._synchronize()
        except RuntimeError as error:
            failure = describe_failure(error)
            self._send(last.peer, [m.Failed(0, failure)])
            last.stream.session.lost_device = failure.message.splitlines()[0]
            self._check_device(last.stream.session)
        self._turns.used(last, time.monotonic() - began)

    def _check_device(self, session: WorkerSession) -> None:
        if session.lost_device:
            raise DeviceLost(f"a program of one of its sessions made the device unusable: {session.lost_device}")

    # --- sessions that wait, and that have gone ----------------------------------------------------------------

    def _wake_suspended(self) -> None:
        """Give suspended sessions a turn each when what they wait for may be there."""
        now = time.monotonic()
        if self._wakeup.clear() or now >= self._next_look:
            for attached in self._suspended:
                self._turns.ready(attached, now)
            self._suspended.clear()
            self._next_look = math.inf

    def _close_dropped(self) -> None:
        closed = self._sessions.close_dropped()
        for attached in closed or ():
            self._turns.leave(attached)
            if attached in self._suspended:
                self._suspended.remove(attached)
            if self._launched is attached:
                self._launched = None
        self._ended |= closed is not None

    def _send(self, identity: bytes, replies: Sequence[m.WorkerToClient]) -> None:
        for reply in replies:
            try:
                self._socket.send(identity, zmq.SNDMORE | zmq.NOBLOCK)
                self._socket.send(codec.encode(reply), zmq.NOBLOCK)
            except zmq.ZMQError as error:
                log.debug("client went away before its answer: %s", error)
