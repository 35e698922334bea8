"""The commands of one session: queued and sent in batches, answered in order. Only requests wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence

from dynamo_genie.errors import DaemonUnavailable, NotRecoverable, ProtocolError, RequestTimeout, SessionLost
from dynamo_genie.runtime.attachment.attachment import Attachment
from dynamo_genie.runtime.attachment.trust import Trust
from dynamo_genie.runtime.recovery.recovery import Recovery
from dynamo_genie.runtime.recovery.saving import SMALL_NBYTES
from dynamo_genie.runtime.session.counters import framing
from dynamo_genie.runtime.session.identity import SessionIdentity
from dynamo_genie.runtime.session.sent_batches import SentBatches
from dynamo_genie.runtime.session.session_links import SourceGone
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m

FLUSH_AT_COMMANDS = 12
FLUSH_AT_NBYTES = 128 << 10

_WEIGHT_COMMANDS = frozenset({"AdoptWeight", "PatchWeight", "BindWeights"})
"""When one of these fails, the daemon's weights are no longer what this side believes."""


class CommandQueue:
    """The queue of commands of a session, and its conversation with the worker, whatever attachment carries it.

    Attributes:
        attachment: What carries the batches.
        untold: Programs that the worker does not know yet, because it has just taken the place of another one.
        tell_program: Tells it one of them, by its number.
        frees: Whether ids that died go with the next batch. While a worker is told again what was told, it needs some
            of them for longer.
    """

    def __init__(
        self,
        attachment: Attachment,
        identity: SessionIdentity,
        while_quiet: Callable[[], None],
        cancel: Callable[[int], None],
        timeout_s: float,
        recovery: Recovery[Attachment] | None = None,
    ) -> None:
        """Queue commands for a session.

        Args:
            attachment: What carries them.
            identity: Whose they are.
            while_quiet: Called now and then while an answer stays away.
            cancel: Told, when Ctrl-C ends a wait, the last batch for which nobody waits any more.
            timeout_s: The limit of one wait.
            recovery: What takes another worker when this one is gone.
        """
        self.attachment = attachment
        self._identity = identity
        self._ids = identity.ids
        self._counters = identity.counters
        self._while_quiet = while_quiet
        self._cancel = cancel
        self._timeout_s = timeout_s
        self._recovery = recovery
        self._notes = recovery.notes if recovery is not None else None
        self.untold: set[int] = set()
        self.tell_program: Callable[[int], None] = self.untold.discard
        self.frees = True
        self._refused = ""
        self._queue: list[m.Command] = []
        self._queued_nbytes = 0
        self._sent = SentBatches()
        self._trust = Trust()

    def attach(self, timeout_s: float) -> m.Attach:
        """Tell the worker which session this is, and send what of it the worker lacks.

        Waits until the worker knows, over as many connections as that takes. Returns what opens the bulk connection.
        """
        return self._attach(time.monotonic() + timeout_s, timeout_s)

    def _attach(self, deadline: float, timeout_s: float) -> m.Attach:
        control, welcome = self.attachment.control, self.attachment.welcome
        message = m.Attach(self._ids.request(), welcome.session, welcome.token)
        self._hand_over(codec.encode(message), deadline)
        while True:
            reply = self._hear(deadline, timeout_s)
            if isinstance(reply, m.Attached) and reply.request_id == message.request_id:
                break
            if isinstance(reply, m.Failed) and reply.request_id == message.request_id:
                raise self.failure(reply.error)
            if self._broke(reply):
                control.renew()
                self._hand_over(codec.encode(message), deadline)
        for data in self._sent.after(reply.sequence):
            self._hand_over(data, deadline)
        return message

    def _mend(self, deadline: float, timeout_s: float) -> None:
        """Go on over a new connection to the same worker, after the last one broke."""
        self._counters.events["reconnects"] += 1
        self.attachment.control.renew()
        self._attach(deadline, timeout_s)

    # --- commands ------------------------------------------------------------------------------------------

    def post(self, command: m.Command, nbytes: int = 64) -> None:
        """Queue a command; nothing is answered."""
        if isinstance(command, m.Call):
            self._identity.calls.note()
            if self._ids.released:
                self._post_released()  # first, so that its results find the room
        if self._notes is not None:
            self._notes.add(command)
        self._enqueue(command, nbytes)

    def repeat(self, command: m.Command, nbytes: int = 64) -> None:
        """Queue a command again, at another worker."""
        if isinstance(command, m.Call):
            self._identity.calls.note()
        self._enqueue(command, nbytes)

    def _enqueue(self, command: m.Command, nbytes: int) -> None:
        if self.untold and (program := getattr(command, "program", 0)) in self.untold:
            self.untold.discard(program)
            self.tell_program(program)
        self._queue.append(command)
        self._queued_nbytes += nbytes
        if len(self._queue) >= FLUSH_AT_COMMANDS or self._queued_nbytes >= FLUSH_AT_NBYTES:
            self.flush()

    def begin_again(self, attachment: Attachment) -> None:
        """Go on over an attachment to a worker that knows nothing of this session; what was queued is dropped."""
        self.attachment = attachment
        self._queue.clear()
        self._queued_nbytes = 0
        self._sent = SentBatches()
        self.frees = False
        released = self._ids.take_released()
        if self._recovery is not None:
            self._recovery.journal.forget(released)
            self._recovery.saving.forget()

    def save_recent(self, fetched: Collection[int] = ()) -> None:
        """Ask for small results before the weights change that they were computed from; nobody waits for them.

        Those that are being `fetched` come anyway.
        """
        handles = self._recovery.saving.recent({*fetched, *self._ids.dying()}) if self._recovery is not None else ()
        if handles:
            self.ask_to_save(handles, SMALL_NBYTES)

    def save_now(self) -> None:
        """Have small results here, before weights of another session change that they may be computed from."""
        handles = self._recovery.saving.recent(self._ids.dying()) if self._recovery is not None else ()
        if handles:
            self.ask_to_save(handles, SMALL_NBYTES)
            self.sync()

    def save_lapsed(self) -> None:
        """Ask again for what a worker was asked to save that died before it answered."""
        if self._recovery is not None and self._recovery.saving.lapsed:
            self.save_recent()

    def ask_to_save(self, handles: Sequence[int], largest: int, *, awaited: bool = False) -> int:
        """Queue a request for what handles name, to be made from that again; return its number."""
        assert self._recovery is not None
        request_id = self._ids.request()
        self._recovery.saving.asked(request_id, handles, awaited=awaited)
        self._queue.append(m.Save(request_id, tuple(handles), largest))
        return request_id

    def flush(self) -> None:
        """Send what is queued, and the ids that died since; to another worker if this one is gone."""
        self._here_or_elsewhere(self._flush)

    def revive(self) -> None:
        """Go on at another worker, if this one is gone, or one that was to send something to it."""
        self._here_or_elsewhere(self._check)

    def _check(self) -> None:
        self.attachment.liveness.check()
        self._while_quiet()

    def _here_or_elsewhere(self, operation: Callable[[], None]) -> None:
        while True:
            try:
                return operation()
            except DaemonUnavailable as error:
                if not self._go_on(error):
                    raise

    def _go_on(self, error: DaemonUnavailable) -> bool:
        """Go on at another worker, which gets what was queued with all that went before; False where this cannot be."""
        if self._recovery is None or self.attachment.liveness.inherited:
            return False
        if self.attachment.liveness.alive and not isinstance(error, SourceGone):
            return False
        return self._recovery.go_on(error)

    def _flush(self) -> None:
        queue = self._queue
        if self._ids.released and self.frees:
            self._post_released()
        if not queue:
            return
        self.attachment.liveness.check()
        if self._sent.full:
            self._wait_for_room()
        sequence = self._identity.batches + 1
        data = self._encode(m.Batch(sequence, tuple(queue), self._identity.heard))
        queue.clear()
        self._queued_nbytes = 0
        self._identity.batches = sequence
        self._sent.add(sequence, data)
        self._transmit(data)

    def _encode(self, batch: m.Batch) -> bytes:
        """Return a batch as it is sent; a command that cannot be is dropped, so that the others can go on."""
        try:
            return codec.encode(batch)
        except Exception:
            self._queue[:] = [command for command in batch.commands if _can_be_sent(command)]
            raise

    def _wait_for_room(self) -> None:
        """Wait until the worker has run some of what was sent."""
        deadline = time.monotonic() + self._timeout_s
        while self._sent.full:
            self._listen(deadline, self._timeout_s)

    def _post_released(self) -> None:
        """Free what died so far; only commands that are queued already can name it."""
        if self._ids.gives_up_weights:
            self.save_recent()
        released = self._ids.take_released()
        if self._notes is not None:
            self._notes.free(released)
        self._queue.append(m.Free(released))

    # --- requests ------------------------------------------------------------------------------------------

    def wait(self, request_id: int) -> m.WorkerToClient:
        """Flush, then return the answer to a posted request or raise the failure it reports."""
        return self._unless_failed(self.ask(request_id))

    def ask(self, request_id: int) -> m.WorkerToClient:
        """Flush, then return the answer to a posted request, be it a failure."""
        self.flush()
        self._counters.events["round_trips"] += 1
        return self.reply(request_id, self._timeout_s)

    def sync(self) -> None:
        """Wait until everything so far has run."""
        request_id = self._ids.request()
        self.post(m.Sync(request_id))
        self.wait(request_id)

    def clock(self) -> int:
        """Wait until everything so far has run on the device, and return the worker's clock then, in nanoseconds."""
        request_id = self._ids.request()
        self.post(m.Sync(request_id, timed=True))
        reply = self.wait(request_id)
        if not isinstance(reply, m.Done):
            raise ProtocolError(f"expected Done, got {type(reply).__name__}")
        return reply.at_ns

    def settle(self) -> m.ErrorInfo | None:
        """Wait until everything so far has run; return the first error that nobody was told of, and log the others."""
        request_id = self._ids.request()
        self.post(m.Sync(request_id))
        self.flush()
        self._counters.events["round_trips"] += 1
        self._receive(request_id, self._timeout_s)
        first = self._identity.late.take_all()
        self._log_late()
        return first

    def settle_quietly(self) -> None:
        """Wait until all that was told to another worker has run there; what fails was told of when it failed first."""
        request_id = self._ids.request()
        self._queue.append(m.Sync(request_id))
        self._flush()
        self._await(request_id, self._timeout_s)

    def refuse(self, reason: str) -> None:
        """Let what is waited for be answered by why it cannot be asked again."""
        self._refused = reason

    def answer(self, request_id: int, timeout_s: float) -> m.WorkerToClient:
        """Return the answer to a request that was sent, or raise the failure it reports."""
        return self._unless_failed(self.reply(request_id, timeout_s))

    def reply(self, request_id: int, timeout_s: float) -> m.WorkerToClient:
        """Return the answer to a request that was sent, be it a failure; log what failed that is not in it."""
        reply = self._receive(request_id, timeout_s)
        for error in _errors_in(reply):
            self._identity.told(error)
        self._log_late()
        return reply

    def _log_late(self) -> None:
        """Log what failed and nobody was told of, once."""
        self._identity.late.log(self._identity.exception)

    def _receive(self, request_id: int, timeout_s: float) -> m.WorkerToClient:
        while True:
            try:
                reply = self._await(request_id, timeout_s)
            except KeyboardInterrupt:
                self._cancel(self._identity.batches)
                raise
            except DaemonUnavailable as error:
                if not self._go_on(error):
                    raise
                if self._refused:
                    refused, self._refused = self._refused, ""
                    raise NotRecoverable(refused) from error
                continue
            if self._recovery is not None:
                self._recovery.heard(request_id)
            return reply

    def _await(self, request_id: int, timeout_s: float) -> m.WorkerToClient:
        deadline = time.monotonic() + timeout_s
        while True:
            reply = self._listen(deadline, timeout_s)
            if reply is not None and reply.request_id == request_id:
                self._identity.heard = self._identity.batches  # whoever waits has sent nothing since
                self._sent.ran(self._identity.batches)
                return reply

    def _listen(self, deadline: float, timeout_s: float) -> m.WorkerToClient | None:
        """Take a message, if one comes in a moment; mend the connection where it broke."""
        reply = self._hear(deadline, timeout_s)
        if self._broke(reply):
            self._mend(deadline, timeout_s)
        return reply

    def _broke(self, reply: m.WorkerToClient | None) -> bool:
        """Whether what came, or that nothing did, says that the connection broke, or may have."""
        if reply is None:
            return self.attachment.control.interrupted or self._trust.exhausted(time.monotonic())
        return isinstance(reply, m.Detached)

    def _hear(self, deadline: float, timeout_s: float) -> m.WorkerToClient | None:
        """Take a message, if one comes in a moment, and note what it says that answers nothing."""
        if self._notes is not None:
            self._notes.enter()  # there is time for that now
        data = self.attachment.control.receive()
        if data is None:
            self.attachment.liveness.check()
            self._while_quiet()
            if time.monotonic() > deadline:
                raise RequestTimeout(
                    f"the daemon did not answer within {timeout_s:g} s (request_timeout_s, GENIE_REQUEST_TIMEOUT_S)"
                )
            return None
        self._trust.heard()
        reply = codec.worker_to_client(data)
        self._counters.received_framing += framing(len(data))
        if isinstance(reply, m.Acknowledged):
            self._counters.received_framing += len(data)
            self._sent.ran(reply.sequence)
            return reply
        self._counters.received["control"] += len(data)
        if isinstance(reply, m.EngineFellBack):
            self._identity.programs.warn(reply)
        elif isinstance(reply, m.Saved) and self._recovery is not None:
            self._recovery.saving.arrived(reply)
        elif isinstance(reply, m.LateFailures):
            self._learn(reply)
        elif reply.request_id == 0 and isinstance(reply, m.Failed):
            raise self.failure(reply.error)
        return reply

    def _transmit(self, data: bytes) -> None:
        """Send a batch, over a new connection where this one broke."""
        if self.attachment.control.send(data):
            self._count_sent(data)
            return
        deadline = time.monotonic() + self._timeout_s
        if self.attachment.control.interrupted:
            self._mend(deadline, self._timeout_s)
        else:
            self._hand_over(data, deadline)

    def _hand_over(self, data: bytes, deadline: float) -> None:
        while not self.attachment.control.send(data):
            self.attachment.liveness.check()
            if time.monotonic() > deadline:
                raise RequestTimeout(
                    f"the daemon took no message for {self._timeout_s:g} s (request_timeout_s, GENIE_REQUEST_TIMEOUT_S)"
                )
        self._count_sent(data)

    def _count_sent(self, data: bytes) -> None:
        self._counters.sent["control"] += len(data)
        self._counters.sent_framing += framing(len(data))

    def _learn(self, news: m.LateFailures) -> None:
        for error in self._identity.late.learn(news):
            if error.operator in _WEIGHT_COMMANDS:
                self._identity.weights_doubtful = True

    def _unless_failed(self, reply: m.WorkerToClient) -> m.WorkerToClient:
        if isinstance(reply, m.Failed):
            raise self.failure(reply.error)
        return reply

    def failure(self, error: m.ErrorInfo) -> Exception:
        """Return what to raise for a failure, and end the attachment where it is of no use any more."""
        raised = self._identity.exception(error)
        if isinstance(raised, SessionLost):
            self.attachment.liveness.end(raised)
        return raised


def _can_be_sent(command: m.Command) -> bool:
    try:
        codec.encode(m.Batch(0, (command,)))
    except Exception:  # noqa: BLE001  # whatever it is, whoever made the command is told
        return False
    return True


def _errors_in(reply: m.WorkerToClient) -> Iterator[m.ErrorInfo]:
    """Yield the errors that an answer brings to whoever asked."""
    if isinstance(reply, m.Failed):
        yield reply.error
    elif isinstance(reply, m.Fetched):
        yield from (found for found in reply.tensors if isinstance(found, m.ErrorInfo))
