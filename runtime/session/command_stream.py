"""A session's stream of commands: queued and sent in batches, answered in order, named by numbers minted here.

Only requests wait. What ends a session and what a failure means is for the class that builds on this one.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque

import zmq

from dynamo_genie.errors import RequestTimeout
from dynamo_genie.runtime.session.counters import Counters, framing
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m

POLL_MS = 100
"""How long one receive blocks before the session looks whether it was lost or its time is over."""

REPEAT_AFTER_S = 10.0
"""A batch is sent again when its answer stays away, ever more rarely; the worker runs it once and answers again."""

FLUSH_AT_COMMANDS = 12
FLUSH_AT_NBYTES = 128 << 10
MAX_UNANSWERED_NBYTES = 8 << 20
"""So much may be on the way to a worker that lags behind; then the client waits for it to catch up."""

MIN_MESSAGE_NBYTES = 64
"""What a message counts at least: a worker that lags behind keeps more of it than its bytes."""


class CommandStream(ABC):
    """Commands out and answers in, on the control socket of one session."""

    def __init__(self, control: zmq.Socket[bytes], timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.counters = Counters()
        self.lock = threading.RLock()
        self.live_handles = 0
        self._control = control
        self._queue: list[m.Command] = []
        self._queued_nbytes = 0
        self._released: deque[int] = deque()
        self._sequence = 0
        self._last_message = b""
        self._unanswered_nbytes = 0
        self._last_id = 0
        self._last_request = 0

    @abstractmethod
    def check(self) -> None:
        """Raise what ended the session, if anything did."""

    @abstractmethod
    def _exception(self, error: m.ErrorInfo) -> Exception:
        """Return what to raise for a failure."""

    @abstractmethod
    def _hear(self, news: m.EngineFellBack) -> None:
        """Take in what answers nothing."""

    @abstractmethod
    def _while_quiet(self) -> None:
        """Called now and then while an answer stays away."""

    # --- names ---------------------------------------------------------------------------------------------

    def mint(self) -> int:
        """Return a fresh id for a handle, program or binding."""
        self._last_id += 1
        return self._last_id

    def free(self, handle_id: int) -> None:
        """Free an id minted with `mint`."""
        self._released.append(handle_id)
        self.live_handles += 1

    # --- commands ------------------------------------------------------------------------------------------

    def post(self, command: m.Command, nbytes: int = 64) -> None:
        """Queue a command; nothing is answered."""
        if self._released and isinstance(command, m.Call):
            self._post_released()  # first, so that its results find the room
        self._queue.append(command)
        self._queued_nbytes += nbytes
        if len(self._queue) >= FLUSH_AT_COMMANDS or self._queued_nbytes >= FLUSH_AT_NBYTES:
            self.flush()

    def flush(self) -> None:
        """Send what is queued, and the ids that died since."""
        queue = self._queue
        if self._released:
            self._post_released()
        if not queue:
            return
        self.check()
        commands = tuple(queue)
        queue.clear()
        self._queued_nbytes = 0
        self._send_batch(commands)
        if self._unanswered_nbytes > MAX_UNANSWERED_NBYTES:
            request_id = self.request_id()
            self._send_batch((m.Sync(request_id),))
            self._wait(request_id, self.timeout_s)

    def _send_batch(self, commands: tuple[m.Command, ...]) -> None:
        self._sequence += 1
        self._transmit(codec.encode(m.Batch(self._sequence, commands)))

    def _post_released(self) -> None:
        """Free what died so far; only commands that are queued already can name it."""
        released = self._released
        dead = [released.popleft() for _ in range(len(released))]
        self.live_handles -= len(dead)
        self._queue.append(m.Free(tuple(dead)))

    def request_id(self) -> int:
        """Return a fresh number for a command that is answered; pass it to `wait`."""
        self._last_request += 1
        return self._last_request

    def wait(self, request_id: int) -> m.WorkerToClient:
        """Flush, then return the answer to a posted request or raise the failure it reports."""
        self.flush()
        self.counters.events["round_trips"] += 1
        return self._wait(request_id, self.timeout_s)

    def sync(self) -> None:
        """Wait until everything so far has run; raise its first error."""
        with self.lock:
            request_id = self.request_id()
            self.post(m.Sync(request_id))
            self.wait(request_id)

    # --- the socket ------------------------------------------------------------------------------------------

    def _transmit(self, data: bytes) -> None:
        deadline = time.monotonic() + self.timeout_s
        while True:
            try:
                self._control.send(data)
                break
            except zmq.Again:
                self.check()
                if time.monotonic() > deadline:
                    raise RequestTimeout(
                        f"the daemon took no message for {self.timeout_s:g} s "
                        "(request_timeout_s, GENIE_REQUEST_TIMEOUT_S)"
                    ) from None
        self.counters.sent["control"] += len(data)
        self.counters.sent_framing += framing(len(data))
        self._last_message = data
        self._unanswered_nbytes += max(len(data), MIN_MESSAGE_NBYTES)

    def _wait(self, request_id: int, timeout_s: float) -> m.WorkerToClient:
        started = time.monotonic()
        deadline, pause_s = started + timeout_s, REPEAT_AFTER_S
        while True:
            try:
                data = self._control.recv()
            except zmq.Again:
                self.check()
                self._while_quiet()
                if time.monotonic() > started + pause_s:
                    pause_s *= 2
                    self._transmit(self._last_message)  # in case the answer was lost in a reconnect
                if time.monotonic() > deadline:
                    raise RequestTimeout(
                        f"the daemon did not answer within {timeout_s:g} s (request_timeout_s, GENIE_REQUEST_TIMEOUT_S)"
                    ) from None
                continue
            self.counters.received["control"] += len(data)
            self.counters.received_framing += framing(len(data))
            reply = codec.worker_to_client(data)
            if reply.request_id == request_id:
                self._unanswered_nbytes = 0
                if isinstance(reply, m.Failed):
                    raise self._exception(reply.error)
                return reply
            if isinstance(reply, m.EngineFellBack):
                self._hear(reply)
            elif reply.request_id == 0 and isinstance(reply, m.Failed):
                raise self._exception(reply.error)
