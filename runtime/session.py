"""The client's state on one daemon: a stream of commands out, answers in, and the names it has minted.

Commands are queued and sent in batches; only requests wait. One lock makes each operation whole, so several
threads may share a session. In a forked child the session is refused, never used.
"""

from __future__ import annotations

import os
import threading
import time
import zlib
from collections import deque
from collections.abc import Sequence

import torch
import zmq

from dynamo_genie.errors import GenieError, ProtocolError, QuotaExceeded, RequestTimeout, SessionLost, StaleHandleError
from dynamo_genie.runtime.admission import Admission
from dynamo_genie.runtime.bulk import BulkConnection, Progress
from dynamo_genie.runtime.counters import Counters
from dynamo_genie.runtime.failures import to_exception
from dynamo_genie.runtime.handles import Handle
from dynamo_genie.runtime.keys import ClientKeys
from dynamo_genie.runtime.memory import dense_for_wire, empty_like_spec, spec_of, tensor_bytes
from dynamo_genie.runtime.transport import connect_dealer, reached_through
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.limits import MAX_BULK_FRAME_NBYTES, MAX_CONTROL_NBYTES, MAX_INLINE_NBYTES
from dynamo_genie.runtime.wire.tensor import InlineTensor, TensorSpec

POLL_MS = 100
"""How long one receive blocks before the session looks whether it was lost or its time is over."""

REPEAT_AFTER_S = 10.0
"""A batch is sent again when its answer stays away, ever more rarely; the worker runs it once and answers again."""

FLUSH_AT_COMMANDS = 12
FLUSH_AT_NBYTES = 128 << 10
MAX_UNANSWERED_NBYTES = 8 << 20
"""So much may be on the way to a worker that lags behind; then the client waits for it to catch up."""

PACK_AT_NBYTES = 256
"""Integer and boolean inputs from this size on are compressed: attention masks shrink to almost nothing."""

_WEIGHT_COMMANDS = frozenset({"StoreWeight", "AdoptWeight", "PatchWeight", "BindWeights"})
"""Nothing waits for these; when one fails, the daemon's weights are no longer what this side believes."""

_PACKABLE = frozenset({torch.int64, torch.int32, torch.bool, torch.uint8})


class Session:
    """An open session; make one with `Session.open`."""

    def __init__(self, admission: Admission, control: zmq.Socket[bytes], bulk: zmq.Socket[bytes], timeout_s: float):
        self.admission = admission
        self.device = admission.welcome.device
        self.counters = Counters()
        self.lock = threading.RLock()
        self._timeout_s = timeout_s
        self._control = control
        self._bulk_socket = bulk
        self._bulk = BulkConnection(bulk, self.counters, self.check, self._heed, timeout_s)
        self._pid = os.getpid()
        self._lost: GenieError | None = None
        self._queue: list[m.Command] = []
        self._queued_nbytes = 0
        self._released: deque[int] = deque()
        self._sequence = 0
        self._last_message = b""
        self._unanswered_nbytes = 0
        self._last_id = 0
        self._last_request = 0
        self._programs: dict[bytes, int] = {}
        self._lines: dict[int, tuple[str | None, ...]] = {}
        self.live_handles = 0

    @classmethod
    def open(
        cls,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        *,
        keys: ClientKeys | None,
        connect_timeout_s: float,
        request_timeout_s: float,
    ) -> Session:
        """Be admitted by the daemon at `endpoint` and attach to the worker it names.

        Raises:
            DaemonUnavailable: Nobody answered within `connect_timeout_s`.
            AuthenticationError, VersionMismatch, QuotaExceeded: The daemon refused.
        """
        lost: deque[GenieError] = deque()
        admission = Admission.open(endpoint, keys=keys, connect_timeout_s=connect_timeout_s, on_lost=lost.append)
        welcome = admission.welcome
        control = connect_dealer(
            context,
            reached_through(welcome.control, endpoint),
            keys=keys,
            max_frame_nbytes=MAX_CONTROL_NBYTES,
            timeout_ms=POLL_MS,
        )
        bulk = connect_dealer(
            context,
            reached_through(welcome.bulk, endpoint),
            keys=keys,
            max_frame_nbytes=MAX_BULK_FRAME_NBYTES,
            high_water=32,
            timeout_ms=POLL_MS,
        )
        session = cls(admission, control, bulk, request_timeout_s)
        session._lost_reports = lost
        try:
            session._attach(connect_timeout_s)
        except BaseException:
            session.close()
            raise
        return session

    _lost_reports: deque[GenieError]

    # --- life ----------------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether the session can be used by this process."""
        if self._lost is None and self._lost_reports:
            self._lost = self._lost_reports[0]
        return self._lost is None and self._pid == os.getpid()

    def check(self) -> None:
        """Raise what ended the session, if anything did."""
        if self.alive:
            return
        if self._pid != os.getpid():
            raise StaleHandleError("this tensor belongs to the parent process; a forked child has a session of its own")
        assert self._lost is not None
        raise type(self._lost)(str(self._lost))

    def close(self) -> None:
        """End the session; everything it holds on the daemon is freed. Closing twice is fine."""
        if self._pid != os.getpid():
            return
        with self.lock:
            if self._lost is None:
                self._lost = SessionLost("the session was closed")
            self.admission.close()
            self._control.close(linger=0)
            self._bulk_socket.close(linger=0)

    def _attach(self, timeout_s: float) -> None:
        welcome = self.admission.welcome
        self._last_request += 1
        attach = m.Attach(self._last_request, welcome.session, welcome.token)
        self._transmit(codec.encode(attach))
        self._wait(self._last_request, timeout_s)
        self._bulk.attach(attach)

    # --- names ---------------------------------------------------------------------------------------------

    def mint(self) -> int:
        """Return a fresh id for a handle, program or binding."""
        self._last_id += 1
        return self._last_id

    @property
    def counted(self) -> tuple[int, int, int]:
        """How many ids, requests and batches there were: larger numbers make longer messages."""
        return self._last_id, self._last_request, self._sequence

    def new_handle(self) -> Handle:
        """Return a fresh handle; its last reference frees what it names."""
        self._last_id += 1
        self.live_handles += 1
        return Handle(self._last_id, self, self._released)

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
            self._wait(request_id, self._timeout_s)

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
        return self._wait(request_id, self._timeout_s)

    def sync(self) -> None:
        """Wait until everything so far has run; raise its first error."""
        with self.lock:
            request_id = self.request_id()
            self.post(m.Sync(request_id))
            self.wait(request_id)

    def register(self, digest: bytes, encoded: bytes, lines: tuple[str | None, ...]) -> int:
        """Return this session's number of a program, sending it when it is new."""
        number = self._programs.get(digest)
        if number is not None:
            return number
        upload = 0
        if len(encoded) > MAX_CONTROL_NBYTES // 2:
            [upload] = self._bulk.upload([memoryview(encoded)], "control")
            encoded = b""
        number = self.mint()
        self.post(m.RegisterProgram(number, digest, encoded, upload), len(encoded))
        self._programs[digest] = number
        self._lines[number] = lines
        return number

    # --- tensors -------------------------------------------------------------------------------------------

    def inline(self, tensor: torch.Tensor, kind: str = "input") -> InlineTensor | None:
        """Return a small local tensor as it travels inside a message, None when it is too large for that."""
        if tensor.nbytes > MAX_INLINE_NBYTES:
            return None
        dense = dense_for_wire(tensor)
        data = bytes(tensor_bytes(dense))
        packed = False
        if len(data) >= PACK_AT_NBYTES and dense.dtype in _PACKABLE:
            small = zlib.compress(data, 1)
            if len(small) < len(data) // 2:
                data, packed = small, True
        self.counters.sent[kind] += len(data)
        self.counters.sent["control"] -= len(data)
        return InlineTensor(spec_of(dense), data, packed)

    def put(self, tensor: torch.Tensor, kind: str = "input") -> Handle:
        """Send a local tensor and return a handle to its copy on the daemon."""
        handle = self.new_handle()
        inline = self.inline(tensor, kind)
        if inline is not None:
            self.post(m.Put(handle.id, inline), len(inline.data))
        else:
            dense = dense_for_wire(tensor)
            [upload] = self.upload_many([tensor_bytes(dense)], kind)
            self.post(m.PutUploaded(handle.id, spec_of(dense), upload))
        return handle

    def fetch(self, handles: Sequence[int], kinds: Sequence[str]) -> list[torch.Tensor]:
        """Return local copies of the tensors with these ids, in one round trip."""
        self.check()  # before the lock, which a thread of the parent may hold for ever
        with self.lock:
            self.counters.events["fetches"] += 1
            request_id = self.request_id()
            self.post(m.Fetch(request_id, tuple(handles)))
            reply = self.wait(request_id)
            if not isinstance(reply, m.Fetched) or len(reply.tensors) != len(handles):
                raise ProtocolError(f"expected {len(handles)} fetched tensors, got {type(reply).__name__}")
            return [self._receive(tensor, kind) for tensor, kind in zip(reply.tensors, kinds, strict=True)]

    def describe(self, handles: Sequence[Handle]) -> tuple[TensorSpec, ...]:
        """Return dtype, shape and strides of remote tensors, for those whose shape depends on data."""
        self.check()
        with self.lock:
            request_id = self.request_id()
            self.post(m.Describe(request_id, tuple(handle.id for handle in handles)))
            reply = self.wait(request_id)
            if not isinstance(reply, m.Described) or len(reply.specs) != len(handles):
                raise ProtocolError(f"expected {len(handles)} descriptions, got {type(reply).__name__}")
            return reply.specs

    def _receive(self, fetched: m.FetchedTensor, kind: str) -> torch.Tensor:
        tensor = empty_like_spec(fetched.spec)
        if fetched.download:
            flat = tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)
            self._bulk.download(fetched.download, flat, kind)
        elif tensor.numel():
            flat = tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)
            if len(fetched.data) != flat.numel():
                raise ProtocolError(f"{len(fetched.data)} bytes came for a tensor of {flat.numel()}")
            flat.numpy().data[:] = fetched.data
            self.counters.received[kind] += len(fetched.data)
            self.counters.received["control"] -= len(fetched.data)
        return tensor

    # --- the channel of ResidentWeights ----------------------------------------------------------------------

    def missing(self, digests: Sequence[bytes]) -> set[int]:
        """Return the positions of the contents that the worker lacks."""
        request_id = self.request_id()
        self.post(m.QueryWeights(request_id, tuple(digests)))
        reply = self.wait(request_id)
        if not isinstance(reply, m.WeightsMissing):
            raise ProtocolError(f"expected WeightsMissing, got {type(reply).__name__}")
        return set(reply.missing)

    def upload(self, view: memoryview, kind: str = "weight") -> int:
        """Send bytes by bulk and return the upload's number once all of them have arrived."""
        return self.upload_many([view], kind)[0]

    def upload_many(
        self, views: Sequence[memoryview], kind: str = "weight", progress: Progress | None = None
    ) -> list[int]:
        """Send several buffers by bulk, one after the other without waiting in between."""
        self.counters.events["round_trips"] += 1
        try:
            return self._bulk.upload(views, kind, progress)
        except QuotaExceeded:
            if not self._released:
                raise
            self.sync()  # what died since the last message makes room
            return self._bulk.upload(views, kind, progress)

    def store(self, digest: bytes, spec: TensorSpec, upload: int) -> None:
        """Keep an upload as a resident weight."""
        self.post(m.StoreWeight(digest, spec, upload))

    def adopt(self, handle: int, digest: bytes, spec: TensorSpec) -> None:
        """Let a handle name a resident weight."""
        self.live_handles += 1
        self.post(m.AdoptWeight(handle, digest, spec))

    def patch(self, handle: int, offset: int, upload: int) -> None:
        """Overwrite part of a weight."""
        self.post(m.PatchWeight(handle, offset, upload))

    # --- the socket ------------------------------------------------------------------------------------------

    def _transmit(self, data: bytes) -> None:
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                self._control.send(data)
                break
            except zmq.Again:
                self.check()
                if time.monotonic() > deadline:
                    raise RequestTimeout(
                        f"the daemon took no message for {self._timeout_s:g} s "
                        "(request_timeout_s, GENIE_REQUEST_TIMEOUT_S)"
                    ) from None
        self.counters.sent["control"] += len(data)
        self._last_message = data
        self._unanswered_nbytes += len(data)

    def _wait(self, request_id: int, timeout_s: float) -> m.WorkerToClient:
        started = time.monotonic()
        deadline, pause_s = started + timeout_s, REPEAT_AFTER_S
        while True:
            try:
                data = self._control.recv()
            except zmq.Again:
                self.check()
                if time.monotonic() > started + pause_s:
                    pause_s *= 2
                    self._transmit(self._last_message)  # in case the answer was lost in a reconnect
                if time.monotonic() > deadline:
                    raise RequestTimeout(
                        f"the daemon did not answer within {timeout_s:g} s (request_timeout_s, GENIE_REQUEST_TIMEOUT_S)"
                    ) from None
                continue
            self.counters.received["control"] += len(data)
            reply = codec.worker_to_client(data)
            if reply.request_id == request_id:
                self._unanswered_nbytes = 0
                if isinstance(reply, m.Failed):
                    raise self._exception(reply.error)
                return reply
            if reply.request_id == 0 and isinstance(reply, m.Failed):
                raise self._exception(reply.error)

    def _exception(self, error: m.ErrorInfo) -> Exception:
        lines = self._lines.get(error.program, ())
        return self._heed(
            to_exception(error, lines[error.node] if 0 <= error.node < len(lines) else None), error.operator
        )

    def _heed(self, error: Exception, operator: str = "") -> Exception:
        """Note a failure after which the session is of no use, and return it: the next call opens another one."""
        if self._lost is None:
            if isinstance(error, SessionLost):
                self._lost = error
            elif operator in _WEIGHT_COMMANDS:
                self._lost = SessionLost(f"the daemon's weights are not the local ones: {error}")
        return error
