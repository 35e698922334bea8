"""The client's state on one daemon: its life, the programs it has sent, tensors put there and read back.

One lock makes each operation whole, so several threads may share a session. In a forked child the session is
refused, never used.
"""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
import zmq

from dynamo_genie.engines import AUTO
from dynamo_genie.errors import (
    EngineWarning,
    GenieError,
    ProtocolError,
    SessionLost,
    StaleHandleError,
)
from dynamo_genie.runtime.connect.admission import Admission
from dynamo_genie.runtime.connect.keys import ClientKeys
from dynamo_genie.runtime.connect.transport import connect_dealer, reached_through, split_device
from dynamo_genie.runtime.session.command_stream import POLL_MS
from dynamo_genie.runtime.session.failures import to_exception
from dynamo_genie.runtime.session.handles import Handle
from dynamo_genie.runtime.session.inline import inline_tensor
from dynamo_genie.runtime.session.link_speed import LinkSpeed, measure_session
from dynamo_genie.runtime.session.session_links import SessionLinks
from dynamo_genie.runtime.session.weight_stream import WeightStream
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.limits import MAX_BULK_FRAME_NBYTES, MAX_CONTROL_NBYTES
from dynamo_genie.runtime.wire.tensor import InlineTensor, TensorSpec
from dynamo_genie.tensors import dense_for_wire, empty_like_spec, spec_of, tensor_bytes

_WEIGHT_COMMANDS = frozenset({"AdoptWeight", "PatchWeight", "BindWeights"})
"""Nothing waits for these; when one fails, the daemon's weights are no longer what this side believes."""


class Session(WeightStream):
    """An open session; make one with `Session.open`."""

    def __init__(
        self,
        admission: Admission,
        control: zmq.Socket[bytes],
        bulk: zmq.Socket[bytes],
        timeout_s: float,
        server_public: str = "",
    ):
        super().__init__(control, bulk, timeout_s)
        self.admission = admission
        self.server_public = server_public
        self.device = admission.welcome.device
        self.links = SessionLinks(self, self._bulk)
        self._bulk_socket = bulk
        self._pid = os.getpid()
        self._lost: GenieError | None = None
        self._programs: dict[tuple[bytes, str], int] = {}
        self._lines: dict[int, tuple[str | None, ...]] = {}

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

        Args:
            endpoint: The daemon's public endpoint; `ENDPOINT#N` for its device N, counted from 0.

        Raises:
            DaemonUnavailable: Nobody answered within `connect_timeout_s`.
            AuthenticationError, VersionMismatch, QuotaExceeded: The daemon refused.
        """
        lost: deque[GenieError] = deque()
        endpoint, device = split_device(endpoint)
        admission = Admission.open(
            endpoint, device, keys=keys, connect_timeout_s=connect_timeout_s, on_lost=lost.append
        )
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
        session = cls(admission, control, bulk, request_timeout_s, keys.server_public if keys else "")
        session._lost_reports = lost
        try:
            session._attach(connect_timeout_s)
        except BaseException:
            session.close()
            raise
        return session

    _lost_reports: deque[GenieError]

    def twin(self, control: Any, bulk: Any) -> Session:
        """Return a session on other sockets that has counted as far as this one and sent the same programs."""
        twin = type(self)(self.admission, control, bulk, self.timeout_s, self.server_public)
        twin._lost_reports = deque()
        twin._last_id, twin._last_request, twin._sequence = self._last_id, self._last_request, self._sequence
        twin._bulk.uploads = self._bulk.uploads
        twin._programs, twin._lines = dict(self._programs), self._lines
        return twin

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

    def register(self, digest: bytes, encoded: bytes, lines: tuple[str | None, ...], engine: str = AUTO) -> int:
        """Return this session's number of a program that `engine` shall run, sending it when it is new."""
        key = (digest, engine)
        number = self._programs.get(key)
        if number is not None:
            return number
        upload = 0
        if len(encoded) > MAX_CONTROL_NBYTES // 2:
            upload = self.upload(memoryview(encoded), "control")
            encoded = b""
        number = self.mint()
        self.post(m.RegisterProgram(number, digest, encoded, upload, engine), len(encoded))
        self._programs[key] = number
        self._lines[number] = lines
        return number

    def new_handle(self) -> Handle:
        """Return a fresh handle; its last reference frees what it names."""
        self._last_id += 1
        self.live_handles += 1
        return Handle(self._last_id, self, self._released)

    # --- tensors -------------------------------------------------------------------------------------------

    def inline(self, tensor: torch.Tensor, kind: str = "input") -> InlineTensor | None:
        """Return a small local tensor as it travels inside a message, None when it is too large for that."""
        inline = inline_tensor(tensor)
        if inline is not None:
            self.counters.sent[kind] += len(inline.data)
            self.counters.sent["control"] -= len(inline.data)  # the message that carries it counts all its bytes
        return inline

    def put(self, tensor: torch.Tensor, kind: str = "input") -> Handle:
        """Send a local tensor and return a handle to its copy on the daemon."""
        handle = self.new_handle()
        inline = self.inline(tensor, kind)
        if inline is not None:
            self.post(m.Put(handle.id, inline), len(inline.data))
        else:
            dense = dense_for_wire(tensor)
            upload = self.upload(tensor_bytes(dense), kind)
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

    # --- what placement asks ---------------------------------------------------------------------------------

    @property
    def bulk_endpoint(self) -> str:
        """Where this session's worker takes bulk data, as this client dials it."""
        return self.admission.welcome.bulk

    def measure_link(self) -> LinkSpeed:
        """Find out how fast the link between this client and the worker is; counted as control."""
        with self.lock:
            return measure_session(self._round_trip, self._upload_and_discard)

    def _round_trip(self) -> None:
        request_id = self.request_id()
        self.post(m.Sync(request_id))
        self.flush()
        self._wait(request_id, self.timeout_s)

    def _upload_and_discard(self, data: memoryview) -> None:
        self._bulk.upload([data], "control", self._bulk.discard)

    def inspect(self, *, engines: bool = False) -> m.Inspection:
        """Ask for the worker's memory, what this session did since it was last asked, and what runs its programs."""
        with self.lock:
            request_id = self.request_id()
            self.post(m.Inspect(request_id, engines))
            reply = self.wait(request_id)
            if not isinstance(reply, m.Inspection):
                raise ProtocolError(f"expected Inspection, got {type(reply).__name__}")
            return reply

    # --- what failures mean ----------------------------------------------------------------------------------

    def _while_quiet(self) -> None:
        self.links.dismiss_lost_sources()

    def _hear(self, news: m.EngineFellBack) -> None:
        line = next((line for line in self._lines.get(news.program, ()) if line), None)
        where = f"the graph that begins at {line}" if line else f"program {news.program}"
        warnings.warn(f"{where} runs eager in the daemon: {news.reason}", EngineWarning, stacklevel=2)

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
