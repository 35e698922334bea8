"""Round trips and uploads through our session and worker, against bare pyzmq on the same kind of endpoint."""

from __future__ import annotations

import contextlib
import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import zmq

from dynamo_genie.bench import floor
from dynamo_genie.bench.alternate import in_turns, seconds_of
from dynamo_genie.bench.daemon import TCP, RunningDaemon, ipc_endpoint, running_daemon
from dynamo_genie.bench.machine import memory_kib, reset_peak_memory
from dynamo_genie.bench.report import Figure, Measured, at_least_times, at_most, at_most_times, summary
from dynamo_genie.runtime.connect.open_session import open_session
from dynamo_genie.runtime.session.session import Session
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.runtime.wire.tensor import TensorSpec
from dynamo_genie.tensors import tensor_bytes

ROUND_TRIP_TIMES = 1.5
UPLOAD_TIMES = 0.7
EXTRA_MIB = 128.0
TRANSPORTS = ("tcp", "ipc")
LIMIT_S = 120.0


def measure_transport(round_trips: int, upload_mib: Sequence[int], uploads: int) -> Measured:
    """Measure so many round trips, so many uploads of each size, and memory, over loopback TCP and over ipc."""
    figures: list[Figure] = []
    details: dict[str, object] = {}
    for transport in TRANSPORTS:
        with _bench(transport) as bench:
            figures.append(_round_trips(bench, round_trips, details))
            for mib in upload_mib:
                figures += _uploads(bench, mib, uploads, details)
            figures += _extra_memory(bench, max(upload_mib), details)
    return Measured(figures, details)


@dataclass(frozen=True)
class _Bench:
    """Both ways to a peer on one kind of endpoint."""

    transport: str
    session: Session
    worker_pid: int
    echo: zmq.Socket[bytes]
    sink: zmq.Socket[bytes]


@contextlib.contextmanager
def _bench(transport: str) -> Iterator[_Bench]:
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(zmq.Context())

        def endpoint(name: str) -> str:
            return TCP if transport == "tcp" else stack.enter_context(ipc_endpoint(name))

        daemon: RunningDaemon = stack.enter_context(running_daemon(endpoint("genie")))
        session = open_session(
            context, daemon.endpoint, keys=None, connect_timeout_s=LIMIT_S, request_timeout_s=LIMIT_S
        )
        stack.callback(session.close)
        echo = stack.enter_context(floor.floor_peer(context, endpoint("echo"), "echo"))
        sink = stack.enter_context(floor.floor_peer(context, endpoint("sink"), "sink"))
        yield _Bench(transport, session, daemon.worker_pid, echo, sink)


# --- round trips -------------------------------------------------------------------------------------------


class _EmptyCall:
    """A call of a program that passes its one input through, and its answer."""

    def __init__(self, session: Session) -> None:
        self._session = session
        program = p.Program(p.PROGRAM_VERSION, (p.TensorInput(),), (), (), (p.Ref(0),))
        encoded = p.encode_program(program)
        self._program = session.register(p.program_digest(encoded), encoded, ())
        self._input = session.put(torch.zeros(1))

    def __call__(self) -> None:
        session = self._session
        with session.lock:
            request_id = session.request_id()
            session.post(m.Call(self._program, 0, (self._input.id,), (0,), request_id))
            session.wait(request_id)


def _round_trips(bench: _Bench, round_trips: int, details: dict[str, object]) -> Figure:
    call = _EmptyCall(bench.session)
    like_ours = ["b", 1, [["C", 1, 0, [2], [0], 1, b""]]]  # a batch with one call, as it crosses the wire

    def echo() -> None:
        floor.echo_once(bench.echo, like_ours)

    in_a_row = min(20, round_trips)
    rounds = max(1, round_trips // in_a_row)
    in_turns({"ours": call, "floor": echo}, max(1, rounds // 10), in_a_row)
    samples = in_turns({"ours": call, "floor": echo}, rounds, in_a_row)
    details[f"round_trip_us_{bench.transport}"] = {name: summary(s, 1e6) for name, s in samples.items()}
    ours, bare = (statistics.median(samples[name]) * 1e6 for name in ("ours", "floor"))
    return at_most_times(f"empty call and answer, {bench.transport}", ours, bare, "us", ROUND_TRIP_TIMES)


# --- uploads -----------------------------------------------------------------------------------------------


class _Upload:
    """An upload through the session; what arrived is freed outside the measured time."""

    def __init__(self, session: Session, view: memoryview) -> None:
        self._session = session
        self._view = view

    def __call__(self) -> None:
        self._number = self._session.upload(self._view)

    def clean_up(self) -> None:
        """Let the worker forget the upload, and wait until it has."""
        session = self._session
        handle = session.new_handle()
        spec = TensorSpec("uint8", (self._view.nbytes,), (1,))
        session.post(m.PutUploaded(handle.id, spec, self._number))
        del handle
        session.sync()


def _uploads(bench: _Bench, mib: int, uploads: int, details: dict[str, object]) -> list[Figure]:
    source = _payload(mib)
    view = tensor_bytes(source)
    upload = _Upload(bench.session, view)

    def ours() -> None:
        times["ours"].append(seconds_of(upload))
        upload.clean_up()

    def fresh() -> None:
        times["fresh"].append(seconds_of(lambda: floor.upload_once(bench.sink, view, fresh=True)))

    def in_use() -> None:
        times["in use"].append(seconds_of(lambda: floor.upload_once(bench.sink, view, fresh=False)))

    ways = {"ours": ours, "fresh": fresh, "in use": in_use}
    times: dict[str, list[float]] = {name: [] for name in ways}
    in_turns(ways, 1)
    for samples in times.values():
        samples.clear()
    in_turns(ways, uploads)
    speeds = {name: [source.nbytes / 1e6 / s for s in samples] for name, samples in times.items()}
    details[f"upload_mb_per_s_{bench.transport}_{mib}_mib"] = {name: summary(s) for name, s in speeds.items()}
    ours_, fresh_, in_use_ = (statistics.median(speeds[name]) for name in ways)
    name = f"upload of {mib} MiB, {bench.transport}"
    return [
        at_least_times(f"{name}, floor into fresh memory", ours_, fresh_, "MB/s", UPLOAD_TIMES),
        # a receiver that may overwrite the same memory again keeps nothing: shown, and no measure of an upload
        Figure(f"{name}, floor overwriting memory", ours_, "MB/s", in_use_, ours_ / in_use_),
    ]


def _extra_memory(bench: _Bench, mib: int, details: dict[str, object]) -> Sequence[Figure]:
    """Peak memory of both sides during one upload, beyond the tensor here and its copy there."""
    source = _payload(mib)
    upload = _Upload(bench.session, tensor_bytes(source))
    pids = {"client": os.getpid(), "worker": bench.worker_pid}
    before = {}
    for side, pid in pids.items():
        reset_peak_memory(pid)
        before[side] = memory_kib(pid, "VmRSS")
    upload()
    peaks = {side: memory_kib(pid, "VmHWM") for side, pid in pids.items()}
    upload.clean_up()
    own = {"client": 0, "worker": mib << 10}
    extra = {side: max(0.0, (peaks[side] - before[side] - own[side]) / 1024) for side in pids}
    details[f"extra_memory_mib_{bench.transport}_{mib}_mib"] = extra
    name = f"extra memory in an upload of {mib} MiB, {bench.transport}"
    return [at_most(f"{name}, {side}", extra[side], "MiB", EXTRA_MIB) for side in pids]


def _payload(mib: int) -> torch.Tensor:
    return torch.arange((mib << 20) // 8, dtype=torch.int64)  # written, so that its pages are there
