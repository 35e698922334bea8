"""A worker's session that sends and receives tensors, without sockets, threads or clocks."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
import torch

from dynamo_genie.errors import DaemonUnavailable
from dynamo_genie.remote_daemon.memory.host_buffers import HostBufferStore
from dynamo_genie.remote_daemon.memory.offloader import Offloader
from dynamo_genie.remote_daemon.transfer.arrivals import Arrivals
from dynamo_genie.remote_daemon.transfer.outgoing import Outgoing
from dynamo_genie.remote_daemon.transfer.staging import Staging
from dynamo_genie.remote_daemon.transfer.traffic import PeerTraffic
from dynamo_genie.remote_daemon.worker.command_stream import CommandStream
from dynamo_genie.remote_daemon.worker.failures import describe_failure
from dynamo_genie.remote_daemon.worker.session_peers import PeerPort
from dynamo_genie.remote_daemon.worker.sessions import WorkerSession
from dynamo_genie.remote_daemon.worker.state import open_state
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.runtime.wire.limits import CHUNK_NBYTES
from dynamo_genie.runtime.wire.tensor import InlineTensor, TensorSpec

PAIR = TensorSpec("float32", (2,), (1,))
DOUBLE = p.encode_program(
    p.Program(p.PROGRAM_VERSION, (p.TensorInput(),), (), (p.Node("aten.mul.Scalar", (p.Ref(0), 2)),), (p.Ref(1),))
)


class Bench:
    """A session with everything around it."""

    def __init__(self, limit: int = 1 << 30) -> None:
        self.state = open_state(HostBufferStore(), Offloader(limit))
        self.budget = self.state.budget
        self.sent: list[tuple[int, Outgoing]] = []
        self.link_failures: dict[int, str] = {}
        traffic, staging = PeerTraffic(), Staging(self.budget)
        self.arrivals = Arrivals(staging, traffic, lambda: None)
        port = PeerPort(self.arrivals, traffic, self.link_failures, lambda link, out: self.sent.append((link, out)))
        self.session = WorkerSession(self.state, staging, lambda data: 0, port)
        self.stream = CommandStream(self.session)
        self._sequence = 0

    def run(self, *commands: m.Command, now: float = 0.0) -> Sequence[m.WorkerToClient]:
        self._sequence += 1
        return self.stream.take(m.Batch(self._sequence, commands), 100, now)


def pair(first: float, second: float) -> InlineTensor:
    return InlineTensor(PAIR, struct.pack("2f", first, second))


def floats(reply: m.WorkerToClient) -> tuple[float, ...]:
    assert isinstance(reply, m.Fetched), reply
    return struct.unpack("2f", reply.tensors[0].data)


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.run(m.RegisterProgram(1, p.program_digest(DOUBLE), DOUBLE))
    return bench


def test_what_a_tensor_is_computed_into_waits_for_the_tensor(bench: Bench) -> None:
    call = m.Call(1, 0, (5,), (6,))
    assert bench.run(m.Sync(1), m.ReceiveTensor(5, 3, 1, 9.0), call, m.Fetch(2, (6,))) == [m.Done(1)]
    assert bench.stream.due == 9.0
    assert bench.run(m.Sync(3)) == []
    bench.arrivals.begin(3, m.TensorBegin(1, PAIR, "activation", struct.pack("2f", 1, 2)))
    [fetched] = bench.stream.resume(1.0)
    assert floats(fetched) == (2, 4)
    assert bench.stream.resume(1.0) == [m.Done(3)]
    assert bench.stream.due is None


def test_a_tensor_that_never_comes_poisons_its_handle_and_the_stream_goes_on(bench: Bench) -> None:
    bench.arrivals.note_link(3, "the link from the daemon at tcp://a:1 to this one at tcp://b:2")
    bench.run(m.ReceiveTensor(5, 3, 1, 9.0), m.Call(1, 0, (5,), (6,)), m.Sync(1), m.Fetch(2, (6,)), m.Sync(3))
    first, second, third = bench.stream.resume(9.0)
    assert isinstance(first, m.Failed)
    assert first.error.kind == "RequestTimeout"
    for part in ("within 9 s", "tcp://a:1", "tcp://b:2", "GENIE_REQUEST_TIMEOUT_S"):
        assert part in first.error.message
    assert isinstance(second, m.Failed)
    assert second.error == first.error
    assert third == m.Done(3)


def test_a_failure_of_the_sender_is_the_failure_here(bench: Bench) -> None:
    error = describe_failure(ValueError("made there"), "aten.mul")
    bench.arrivals.fail(3, 1, error)
    done, failed = bench.run(m.ReceiveTensor(5, 3, 1, 9.0), m.Sync(1), m.Fetch(2, (5,)))
    assert done == m.Done(1), "the sender's session tells it where it happened"
    assert isinstance(failed, m.Failed)
    assert failed.error == error


def test_a_poisoned_tensor_is_sent_as_its_error_without_the_senders_program(bench: Bench) -> None:
    bench.run(m.Call(1, 0, (99,), (6,)), m.SendTensor(6, 3, 1, "activation"))
    [(link, outgoing)] = bench.sent
    assert (link, outgoing.transfer) == (3, 1)
    assert outgoing.error is not None
    assert "99" in outgoing.error.message
    assert (outgoing.error.program, outgoing.error.node) == (-1, -1)
    assert bench.budget.used == 0


def test_a_view_is_sent_as_dense_bytes_and_its_copy_counts_until_it_is_sent(bench: Bench) -> None:
    bench.session.handles.add(7, torch.arange(4.0)[::2])
    before = bench.budget.used
    bench.run(m.SendTensor(7, 3, 1, "activation"))
    [(_, outgoing)] = bench.sent
    assert outgoing.spec == TensorSpec("float32", (2,), (1,))
    assert bytes(outgoing.data) == struct.pack("2f", 0, 2)
    assert bench.budget.used == before + 8
    outgoing.drop()
    outgoing.drop()
    assert bench.budget.used == before


def test_a_copy_that_has_no_room_is_a_quota_error_on_both_sides() -> None:
    bench = Bench(limit=12)
    bench.run(m.Put(5, pair(1, 2)))
    [failed] = bench.run(m.SendTensor(5, 3, 1, "activation"), m.Sync(1))
    assert isinstance(failed, m.Failed)
    assert failed.error.kind == "QuotaExceeded"
    [(_, outgoing)] = bench.sent
    assert outgoing.error is not None
    assert outgoing.error.kind == "QuotaExceeded"


def test_a_link_that_has_failed_says_so(bench: Bench) -> None:
    bench.link_failures[3] = "nobody is there"
    [failed] = bench.run(m.Put(5, pair(1, 2)), m.SendTensor(5, 3, 1, "activation"), m.Sync(1))
    assert isinstance(failed, m.Failed)
    assert (failed.error.kind, failed.error.message) == (DaemonUnavailable.__name__, "nobody is there")
    assert not bench.sent


def test_a_session_that_ends_while_it_waits_leaves_nothing(bench: Bench) -> None:
    bench.run(m.ReceiveTensor(5, 3, 1, 9.0), m.Sync(1))
    bench.arrivals.begin(3, m.TensorBegin(1, PAIR, "x", struct.pack("2f", 1, 2)))
    bench.stream.close()
    assert bench.budget.used == 0
    assert bench.stream.due is None


def test_an_inspection_tells_calls_memory_and_what_was_copied(bench: Bench) -> None:
    [before, after] = bench.run(
        m.Call(1, 0, (pair(1, 2),), (6,)), m.Call(1, 0, (pair(3, 4),), (7,)), m.Inspect(1), m.Inspect(2)
    )
    assert isinstance(before, m.Inspection)
    assert isinstance(after, m.Inspection)
    assert [program for program, _, _ in before.spans] == [1, 1]
    assert all(started <= ended for _, started, ended in before.spans)
    assert dict(before.counts)["arena_appends"] == 0
    assert (before.memory_limit, before.memory_used) == (1 << 30, 16)
    assert after.spans == ()


def test_a_tensor_becomes_frames_and_frames_the_tensor() -> None:
    data = bytes(range(256)) * (CHUNK_NBYTES // 256) + b"tail"
    spec = TensorSpec("uint8", (len(data),), (1,))
    outgoing = Outgoing(5, "activation", spec, memoryview(data))
    received = b""
    for number in range(10):
        frames, sent = outgoing.next_frames()
        message = codec.to_bulk(frames[0])
        if number == 0:
            assert message == m.TensorBegin(5, spec, "activation")
        else:
            assert message == m.Chunk(5, len(received))
            received += bytes(frames[1])
        if outgoing.advance(sent):
            break
    assert received == data


@pytest.mark.parametrize("nbytes", [0, 1, 3072])
def test_a_small_tensor_is_one_frame(nbytes: int) -> None:
    spec = TensorSpec("uint8", (nbytes,), (1,))
    outgoing = Outgoing(5, "activation", spec, memoryview(bytes(nbytes)))
    [frame], sent = outgoing.next_frames()
    assert codec.to_bulk(frame) == m.TensorBegin(5, spec, "activation", bytes(nbytes))
    assert outgoing.advance(sent)
