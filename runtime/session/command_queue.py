"""The commands of one session: queued and sent in batches, answered in order. Only requests wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from dynamo_genie.errors import RequestTimeout, SessionLost
from dynamo_genie.runtime.session.attachment import Attachment
from dynamo_genie.runtime.session.counters import framing
from dynamo_genie.runtime.session.identity import SessionIdentity
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m

REPEAT_AFTER_S = 10.0
"""A batch is sent again when its answer stays away, ever more rarely; the worker runs it once and answers again."""

FLUSH_AT_COMMANDS = 12
FLUSH_AT_NBYTES = 128 << 10
MAX_UNANSWERED_NBYTES = 8 << 20
"""So much may be on the way to a worker that lags behind; then the client waits for it to catch up."""

MIN_MESSAGE_NBYTES = 64
"""What a message counts at least: a worker that lags behind keeps more of it than its bytes."""

_WEIGHT_COMMANDS = frozenset({"AdoptWeight", "PatchWeight", "BindWeights"})
"""When one of these fails, the daemon's weights are no longer what this side believes."""


class CommandQueue:
    """The queue of commands of a session, and its conversation with the worker, whatever attachment carries it.

    Attributes:
        attachment: What carries the batches.
    """

    def __init__(
        self, attachment: Attachment, identity: SessionIdentity, while_quiet: Callable[[], None], timeout_s: float
    ) -> None:
        """Queue commands for a session; `while_quiet` is called now and then while an answer stays away."""
        self.attachment = attachment
        self._identity = identity
        self._ids = identity.ids
        self._counters = identity.counters
        self._while_quiet = while_quiet
        self._timeout_s = timeout_s
        self._queue: list[m.Command] = []
        self._queued_nbytes = 0
        self._last_message = b""
        self._unanswered_nbytes = 0

    def attach(self, timeout_s: float) -> m.Attach:
        """Tell the worker which session this is, wait until it knows, and return what opens the bulk connection."""
        welcome = self.attachment.welcome
        message = m.Attach(self._ids.request(), welcome.session, welcome.token)
        self._transmit(codec.encode(message))
        self.answer(message.request_id, timeout_s)
        return message

    # --- commands ------------------------------------------------------------------------------------------

    def post(self, command: m.Command, nbytes: int = 64) -> None:
        """Queue a command; nothing is answered."""
        if isinstance(command, m.Call):
            self._identity.calls.note()
            if self._ids.released:
                self._post_released()  # first, so that its results find the room
        self._queue.append(command)
        self._queued_nbytes += nbytes
        if len(self._queue) >= FLUSH_AT_COMMANDS or self._queued_nbytes >= FLUSH_AT_NBYTES:
            self.flush()

    def flush(self) -> None:
        """Send what is queued, and the ids that died since."""
        queue = self._queue
        if self._ids.released:
            self._post_released()
        if not queue:
            return
        self.attachment.liveness.check()
        commands = tuple(queue)
        queue.clear()
        self._queued_nbytes = 0
        self._send_batch(commands)
        if self._unanswered_nbytes > MAX_UNANSWERED_NBYTES:
            request_id = self._ids.request()
            self._send_batch((m.Sync(request_id),))
            self.answer(request_id, self._timeout_s)

    def _send_batch(self, commands: tuple[m.Command, ...]) -> None:
        self._identity.batches += 1
        self._transmit(codec.encode(m.Batch(self._identity.batches, commands)))

    def _post_released(self) -> None:
        """Free what died so far; only commands that are queued already can name it."""
        self._queue.append(m.Free(self._ids.take_released()))

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
        started = time.monotonic()
        pause_s = REPEAT_AFTER_S
        while True:
            data = self.attachment.control.receive()
            if data is None:
                self.attachment.liveness.check()
                self._while_quiet()
                elapsed_s = time.monotonic() - started
                if elapsed_s > pause_s:
                    pause_s *= 2
                    self._transmit(self._last_message)  # in case the answer was lost in a reconnect
                if elapsed_s > timeout_s:
                    raise RequestTimeout(
                        f"the daemon did not answer within {timeout_s:g} s (request_timeout_s, GENIE_REQUEST_TIMEOUT_S)"
                    )
                continue
            self._counters.received["control"] += len(data)
            self._counters.received_framing += framing(len(data))
            reply = codec.worker_to_client(data)
            if reply.request_id == request_id:
                self._unanswered_nbytes = 0
                return reply
            if isinstance(reply, m.EngineFellBack):
                self._identity.programs.warn(reply)
            elif isinstance(reply, m.LateFailures):
                self._learn(reply)
            elif reply.request_id == 0 and isinstance(reply, m.Failed):
                raise self.failure(reply.error)

    def _transmit(self, data: bytes) -> None:
        deadline = 0.0
        while not self.attachment.control.send(data):
            self.attachment.liveness.check()
            deadline = deadline or time.monotonic() + self._timeout_s
            if time.monotonic() > deadline:
                raise RequestTimeout(
                    f"the daemon took no message for {self._timeout_s:g} s (request_timeout_s, GENIE_REQUEST_TIMEOUT_S)"
                )
        self._counters.sent["control"] += len(data)
        self._counters.sent_framing += framing(len(data))
        self._last_message = data
        self._unanswered_nbytes += max(len(data), MIN_MESSAGE_NBYTES)

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


def _errors_in(reply: m.WorkerToClient) -> Iterator[m.ErrorInfo]:
    """Yield the errors that an answer brings to whoever asked."""
    if isinstance(reply, m.Failed):
        yield reply.error
    elif isinstance(reply, m.Fetched):
        yield from (found for found in reply.tensors if isinstance(found, m.ErrorInfo))
