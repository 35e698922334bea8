"""A device that is lost: the session that did it hears the error, nobody else computes on it, and the worker ends."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
import zmq

from dynamo_genie.remote_daemon.channel.message_reader import Received
from dynamo_genie.remote_daemon.channel.wakeup import Wakeup
from dynamo_genie.remote_daemon.engines.engine import NodeError, RunningProgram
from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget
from dynamo_genie.remote_daemon.operators.resolved_program import ResolvedProgram
from dynamo_genie.remote_daemon.transfer.mailboxes import SessionMailboxes
from dynamo_genie.remote_daemon.worker.attached_sessions import AttachedSession, AttachedSessions
from dynamo_genie.remote_daemon.worker.device_loss import DeviceLost, device_is_lost
from dynamo_genie.remote_daemon.worker.executor import Executor
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire import program as p
from tests.remote_daemon.worker_in_process import WorkerInProcess

ASSERT = "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported"
PROGRAM = p.Program(p.PROGRAM_VERSION, (), (), (), (7,))


@pytest.mark.parametrize(
    ("message", "lost"),
    [
        (ASSERT, True),
        ("CUDA error: an illegal memory access was encountered", True),
        ("CUDA error: the launch timed out and was terminated", True),
        ("CUDA error: hardware stack error", True),
        ("CUDA error: an illegal instruction was encountered", True),
        ("CUDA error: misaligned address", True),
        ("CUDA error: operation not supported on global/shared address space", True),
        ("CUDA error: invalid program counter", True),
        ("CUDA error: unspecified launch failure", True),
        ("CUDA error: tensor memory not completely freed", True),
        ("CUDA error: Invalid access of peer GPU memory over nvlink or a hardware error", True),
        ("CUDA error: uncorrectable ECC error encountered", True),
        ("CUDA error: uncorrectable NVLink error detected during the execution", True),
        ("CUDA error: the MPS client has been terminated by the server", True),
        ("cudaErrorIllegalAddress: an illegal memory access was encountered", True),  # as CuPy says it
        ("CUDA error: operation not permitted when stream is capturing", False),
        ("CUDA error: operation failed due to a previous error during capture", False),
        ("CUDA out of memory. Tried to allocate 2.00 GiB", False),
        ("CUDA error: invalid configuration argument", False),
        ("index 9 is out of bounds for dimension 0 with size 3", False),
    ],
)
def test_only_errors_that_poison_the_context_end_a_worker(message: str, lost: bool) -> None:
    error = NodeError(3, "aten.index.Tensor")
    error.__cause__ = RuntimeError(message)
    assert device_is_lost(error) is lost
    assert device_is_lost(RuntimeError(message)) is lost


class Sockets:
    """A ROUTER that brings what it was given, and keeps what is sent."""

    def __init__(self, frames: list[list[bytes]]) -> None:
        self._frames = deque(frames)
        self.sent: list[tuple[bytes, m.WorkerToClient]] = []
        self._to = b""
        self.rcvtimeo = 0

    def receive(self, flags: int = 0, /) -> Received:
        if not self._frames:
            raise AssertionError("the executor went on")
        peer, data = self._frames.popleft()
        return Received(peer, zmq.Frame(data), 0)

    def readable(self) -> bool:
        return bool(self._frames)

    def send(self, data: bytes, flags: int = 0) -> None:
        if flags & zmq.SNDMORE:
            self._to = data
        else:
            self.sent.append((self._to, codec.worker_to_client(data)))

    def fileno(self) -> int:
        return -1


class Device:
    """Runs the programs of sessions; may fail at once or later."""

    def __init__(self, *, fails: str = "") -> None:
        self.fails = fails
        self.late = ""
        self.runs = 0

    def build(self, program: ResolvedProgram, engine: str, name: str) -> RunningProgram:
        return RunningProgram(name, self._run, "eager", "", None, fell_back=False)

    def _run(self, inputs: list[Any]) -> tuple[Any, ...]:
        self.runs += 1
        if self.fails:
            raise RuntimeError(self.fails)
        return (7,)

    def synchronize(self) -> None:
        if self.late:
            raise RuntimeError(self.late)


def call(sequence: int, *more: m.Command) -> bytes:
    encoded = p.encode_program(PROGRAM)
    register = m.RegisterProgram(sequence, p.program_digest(encoded), encoded)
    return codec.encode(m.Batch(sequence, (register, m.Call(sequence, 0, (), (0,)), *more)))


def serve(device: Device, frames: list[list[bytes]], monkeypatch: pytest.MonkeyPatch) -> Sockets:
    """Run an executor for the sessions `a` and `b` until it ends for want of a device."""
    sockets: Any = Sockets(frames)
    monkeypatch.setattr(zmq, "Poller", lambda: type("P", (), {"register": lambda *a: None, "poll": lambda *a: []})())
    sessions = {peer: AttachedSession(WorkerInProcess(build=device.build).stream, peer) for peer in (b"a", b"b")}
    attached = AttachedSessions(SessionMailboxes(MemoryBudget(0), lambda: None), lambda mailbox: None)  # type: ignore[arg-type,return-value]
    attached.on = sessions.get
    executor = Executor(sockets, sockets, attached, Wakeup(), device.synchronize)
    with pytest.raises(DeviceLost, match="device-side assert triggered"):
        executor.serve()
    return sockets


def test_the_session_whose_call_failed_hears_it_and_no_other_one_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(fails=ASSERT)
    sockets = serve(device, [[b"a", call(1)], [b"b", call(1)]], monkeypatch)
    [(whom, reply)] = sockets.sent
    assert whom == b"a"
    assert isinstance(reply, m.Failed)
    assert "device-side assert" in reply.error.message
    assert device.runs == 1


def test_a_failure_that_shows_later_is_told_to_the_session_that_launched_it(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device()
    device.late = ASSERT
    sockets = serve(device, [[b"a", call(1)], [b"b", call(1, m.Sync(1))]], monkeypatch)
    [(whom, reply)] = sockets.sent
    assert whom == b"a"
    assert isinstance(reply, m.Failed)
    assert reply.request_id == 0
    assert device.runs == 1, "the second session computed nothing on the lost device"


def test_a_session_by_itself_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device()
    device.late = ASSERT
    serve(device, [[b"a", call(1)], [b"a", call(2)], [b"b", call(1)]], monkeypatch)
    assert device.runs == 2
