"""A worker's session that sends and receives tensors, without sockets, threads or clocks."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
import torch
from msgspec.structs import replace

from dynamo_genie.errors import DaemonUnavailable
from dynamo_genie.remote_daemon.memory.host_buffers import HostBufferStore
from dynamo_genie.remote_daemon.memory.offloader import Offloader
from dynamo_genie.remote_daemon.transfer.arrivals import Arrivals
from dynamo_genie.remote_daemon.transfer.outgoing import Outgoing
from dynamo_genie.remote_daemon.transfer.staging import Staging
from dynamo_genie.remote_daemon.transfer.traffic import PeerTraffic
from dynamo_genie.remote_daemon.worker.command_stream import CommandStream
from dynamo_genie.remote_daemon.worker.failures import describe_failure
from dynamo_genie.remote_daemon.worker.session_peers import MAX_ROUTE, PeerPort, arrived_error
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
    [found] = reply.tensors
    assert isinstance(found, m.FetchedTensor), found
    return struct.unpack("2f", found.data)


def late(reply: m.WorkerToClient) -> m.ErrorInfo:
    assert isinstance(reply, m.LateFailures), reply
    [error] = reply.errors
    return error


def fetched_error(reply: m.WorkerToClient) -> m.ErrorInfo:
    assert isinstance(reply, m.Fetched), reply
    [error] = reply.tensors
    assert isinstance(error, m.ErrorInfo), error
    return error


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.run(m.RegisterProgram(1, p.program_digest(DOUBLE), DOUBLE))
    return bench


def test_what_a_tensor_is_computed_into_waits_for_the_tensor(bench: Bench) -> None:
    call = m.Call(1, 0, (5,), (6,))
    assert bench.run(m.Sync(1), m.ReceiveTensor(5, 3, 1, 9.0), call, m.Fetch(2, (6,))) == [m.Done(1)]
    assert bench.stream.due == 9.0
    bench.arrivals.begin(3, m.TensorBegin(1, PAIR, "activation", struct.pack("2f", 1, 2)))
    [fetched] = bench.stream.resume(1.0)
    assert floats(fetched) == (2, 4)
    assert bench.stream.due is None
    assert bench.run(m.Sync(3)) == [m.Done(3)]


def test_a_tensor_that_never_comes_poisons_its_handle_and_the_stream_goes_on(bench: Bench) -> None:
    bench.arrivals.note_link(3, "the link from the daemon at tcp://a:1 to this one at tcp://b:2")
    bench.run(m.ReceiveTensor(5, 3, 1, 9.0), m.Call(1, 0, (5,), (6,)), m.Sync(1), m.Fetch(2, (6,)), m.Sync(3))
    news, first, second, third = bench.stream.resume(9.0)
    error = late(news)
    assert error.kind == "RequestTimeout"
    for part in ("within 9 s", "tcp://a:1", "tcp://b:2", "GENIE_REQUEST_TIMEOUT_S"):
        assert part in error.message
    assert (error.number, error.call, error.route) == (1, 1, ()), "the call for which it was to be received"
    assert first == m.Done(1)
    assert fetched_error(second) == error
    assert third == m.Done(3)


def test_a_failure_of_the_sender_is_the_failure_here(bench: Bench) -> None:
    error = replace(describe_failure(ValueError("made there"), "aten.mul"), program=4, node=2, number=7, call=9)
    bench.arrivals.fail(3, 1, error)
    done, fetched = bench.run(m.ReceiveTensor(5, 3, 1, 9.0), m.Sync(1), m.Fetch(2, (5,)))
    assert done == m.Done(1), "the sender's session tells it where it happened"
    assert fetched_error(fetched) == replace(error, route=(3,))


def test_an_error_says_through_which_links_it_came_unless_those_are_too_many() -> None:
    error = m.ErrorInfo("ValueError", "far away", "aten.mul", 4, 2, "", 7, 9)
    for link in range(1, MAX_ROUTE + 1):
        error = arrived_error(error, link)
    assert error.route == tuple(range(MAX_ROUTE, 0, -1))
    assert arrived_error(error, 1) == m.ErrorInfo("ValueError", "far away", "aten.mul", -1, -1, "")


def test_what_went_wrong_on_the_way_is_an_error_of_the_receiver(bench: Bench) -> None:
    bench.arrivals.cut(3, describe_failure(DaemonUnavailable("the link was cut"), "ReceiveTensor"))
    news, done, fetched = bench.run(m.ReceiveTensor(5, 3, 1, 9.0), m.Sync(1), m.Fetch(2, (5,)))
    assert (late(news).kind, late(news).number) == ("DaemonUnavailable", 1)
    assert done == m.Done(1)
    assert fetched_error(fetched) == late(news)


def test_a_poisoned_tensor_is_sent_as_its_error(bench: Bench) -> None:
    bench.run(m.Call(1, 0, (99,), (6,)), m.SendTensor(6, 3, 1, "activation"))
    [(link, outgoing)] = bench.sent
    assert (link, outgoing.transfer) == (3, 1)
    assert outgoing.error is not None
    assert "99" in outgoing.error.message
    assert (outgoing.error.program, outgoing.error.number, outgoing.error.call) == (1, 1, 1)
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
    news, done = bench.run(m.SendTensor(5, 3, 1, "activation"), m.Sync(1))
    assert late(news).kind == "QuotaExceeded"
    assert done == m.Done(1)
    [(_, outgoing)] = bench.sent
    assert outgoing.error == late(news)


def test_a_link_that_has_failed_says_so(bench: Bench) -> None:
    bench.link_failures[3] = "nobody is there"
    news, done = bench.run(m.Put(5, pair(1, 2)), m.SendTensor(5, 3, 1, "activation"), m.Sync(1))
    assert (late(news).kind, late(news).message) == (DaemonUnavailable.__name__, "nobody is there")
    assert done == m.Done(1)
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
