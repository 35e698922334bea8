"""Tensors go from daemon to daemon, bit for bit, past the client; and what goes wrong there ends and has a name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import zmq
from torch import Tensor

from dynamo_genie.errors import (
    DaemonUnavailable,
    GenieError,
    OptionError,
    RequestTimeout,
    SessionLost,
    StaleHandleError,
)
from dynamo_genie.runtime.connect.keys import load_client_keys
from dynamo_genie.runtime.connect.open_session import open_session
from dynamo_genie.runtime.session.peer_mesh import PeerMesh, fresh_keys, require_reachable
from dynamo_genie.runtime.session.session import Handle, Session
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.runtime.wire.limits import CHUNK_NBYTES
from dynamo_genie.runtime.wire.tensor import TensorSpec
from dynamo_genie.runtime.wire.version import PROTOCOLS
from tests.integration.real_daemon import LIMIT_S, RealDaemon, eventually, run_python

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(os.environ.get("GENIE_TEST_BACKEND", "genie") != "genie", reason="about daemons"),
]

MIB = 1 << 20


def session_with(context: zmq.Context[Any], daemon: RealDaemon, key: Path | None, timeout_s: float = 60.0) -> Session:
    keys = load_client_keys(key) if key is not None else None
    return open_session(context, daemon.endpoint, keys=keys, connect_timeout_s=LIMIT_S, request_timeout_s=timeout_s)


@pytest.fixture(scope="module")
def context() -> Iterator[zmq.Context[Any]]:
    context: zmq.Context[Any] = zmq.Context()
    yield context
    context.destroy(linger=0)


@dataclass(frozen=True)
class Machines:
    """Two daemons and the client key that opens both."""

    first: RealDaemon
    second: RealDaemon
    key: Path | None


def make_keys(directory: Path) -> Path:
    """Make a daemon's keys and return the client's key file."""
    run_python("from dynamo_genie.cli.__main__ import main; main()", "keygen", str(directory))
    [key] = [path for path in directory.rglob("*") if path.is_file() and b"genie-client-key" in path.read_bytes()]
    return key


@pytest.fixture(scope="module", params=["without keys", "with keys"])
def machines(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    keys = key = None
    if request.param == "with keys":
        keys = tmp_path_factory.mktemp("peers") / "keys"
        key = make_keys(keys)
    with RealDaemon(keys=keys) as first, RealDaemon(keys=keys) as second:
        yield Machines(first, second, key)


@dataclass(frozen=True)
class Pair:
    """A session with each of two daemons, and the links between them."""

    first: Session
    second: Session
    mesh: PeerMesh

    def move(self, handle: Handle, target: Session) -> Handle:
        """Move a tensor and send the commands."""
        moved = self.mesh.move(handle, target)
        handle.session.flush()
        target.flush()
        return moved


@pytest.fixture
def pair(context: zmq.Context[Any], machines: Machines) -> Iterator[Pair]:
    with ExitStack() as stack:
        sessions = [session_with(context, d, machines.key) for d in (machines.first, machines.second)]
        for session in sessions:
            stack.callback(session.close)
        yield Pair(sessions[0], sessions[1], PeerMesh())


@pytest.fixture
def daemons() -> Iterator[Machines]:
    """For tests that break one."""
    with RealDaemon() as first, RealDaemon() as second:
        yield Machines(first, second, None)


def fetch(handle: Handle) -> Tensor:
    [tensor] = handle.session.fetch([handle.id], ["output"])
    return tensor


def program(session: Session, operator: str, *arguments: object) -> int:
    made = p.Program(
        p.PROGRAM_VERSION, (p.TensorInput(),), (), (p.Node(operator, (p.Ref(0), *arguments)),), (p.Ref(1),)
    )
    encoded = p.encode_program(made)
    return session.register(p.program_digest(encoded), encoded, (None,))


def call(handle: Handle, operator: str, *arguments: object) -> Handle:
    session = handle.session
    number, result = program(session, operator, *arguments), session.new_handle()
    session.post(m.Call(number, 0, (handle.id,), (result.id,)))
    return result


def same(left: Tensor, right: Tensor) -> bool:
    """Bit for bit, NaNs and signs of zero included."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    return left.contiguous().view(-1).view(torch.uint8).equal(right.contiguous().view(-1).view(torch.uint8))


# --- what arrives ----------------------------------------------------------------------------------------

TENSORS = {
    "nothing": torch.empty(0),
    "an empty matrix": torch.empty(3, 0, 5),
    "a scalar": torch.tensor(-0.0),
    "a hidden state": torch.randn(1, 1, 768),
    "NaNs": torch.tensor([float("nan"), -float("nan"), float("inf"), -0.0]),
    "just inline": torch.randn(16 << 10),
    "just not inline": torch.randn((16 << 10) + 1),
    "one chunk": torch.randn(CHUNK_NBYTES // 4),
    "chunks and a rest": torch.randn(5 * CHUNK_NBYTES // 4 + 3),
    "more chunks than credits": torch.randn(10 * MIB),
    "bfloat16": torch.randn(300, 7).bfloat16(),
    "bool": torch.rand(1000) > 0.5,
    "complex": torch.randn(100, dtype=torch.complex64),
    "integers": torch.randint(-(2**62), 2**62, (400,)),
    "float8": torch.randn(64).to(torch.float8_e4m3fn),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_arrives_bit_for_bit_and_comes_back(pair: Pair, name: str) -> None:
    tensor = TENSORS[name]
    handle = pair.first.put(tensor)
    there = pair.move(handle, pair.second)
    assert same(fetch(there), tensor)
    assert same(fetch(pair.move(there, pair.first)), tensor)


VIEWS = {
    "transposed": (torch.randn(40, 60), ("aten.t.default",)),
    "sliced": (torch.randn(40, 60), ("aten.slice.Tensor", 1, 3, 50, 2)),
    "expanded": (torch.randn(1, 60), ("aten.expand.default", p.Items((500, 60)))),
    "large and strided": (torch.randn(1000, 1001), ("aten.slice.Tensor", 1, 0, 900)),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_arrive_as_what_they_show(pair: Pair, name: str) -> None:
    tensor, (operator, *arguments) = VIEWS[name]
    view = call(pair.first.put(tensor), operator, *arguments)
    assert same(fetch(pair.move(view, pair.second)), fetch(view))


def test_a_handle_keeps_its_kind_and_owns_its_memory(pair: Pair) -> None:
    handle = pair.first.put(torch.ones(3))
    handle.kind, handle.memory.nbytes = "activation", 99
    moved = pair.move(handle, pair.second)
    assert (moved.kind, moved.memory.nbytes, moved.session) == ("activation", 0, pair.second)
    assert moved.memory is not handle.memory


def test_the_clients_bytes_do_not_grow_with_the_tensor_and_both_daemons_count_alike(pair: Pair) -> None:
    costs = []
    for nbytes in (4, 4 * MIB, 16 * MIB):
        handle = pair.first.put(torch.ones(1))
        big = call(handle, "aten.expand.default", p.Items((nbytes // 4,)))
        fetch(pair.move(handle, pair.second))  # the link is open
        pair.first.sync()
        pair.first.counters.reset()
        pair.second.counters.reset()
        big.kind = "activation"
        pair.move(big, pair.second)
        pair.second.sync()
        costs.append(
            sum(sum(s.counters.sent.values()) + sum(s.counters.received.values()) for s in (pair.first, pair.second))
        )
    assert max(costs) - min(costs) < 32, "only numbers got longer"
    sent, received = dict(pair.first.inspect().peer_sent), dict(pair.second.inspect().peer_received)
    assert sent == received
    assert sent["activation"] == 4 + 20 * MIB


def test_status_shows_what_daemons_sent_one_another(pair: Pair, machines: Machines) -> None:
    before = dict(machines.first.status(machines.key).peer_sent).get("kv_cache", 0)
    handle = pair.first.put(torch.ones(1000))
    handle.kind = "kv_cache"
    fetch(pair.move(handle, pair.second))
    assert dict(machines.first.status(machines.key).peer_sent)["kv_cache"] == before + 4000
    assert dict(machines.second.status(machines.key).peer_received)["kv_cache"] >= 4000


def test_one_tensor_visits_both_many_times_without_waiting_in_between(pair: Pair) -> None:
    handle = pair.first.put(torch.zeros(500))
    for step in range(50):
        handle = call(handle, "aten.add.Scalar", step)
        handle = pair.move(handle, pair.second)
        handle = call(handle, "aten.mul.Scalar", 1)
        handle = pair.move(handle, pair.first)
    assert torch.equal(fetch(handle), torch.full((500,), float(sum(range(50)))))


def test_tensors_that_cross_do_not_wait_for_each_other(pair: Pair) -> None:
    """Each daemon is told to receive before it is told to send."""
    ours, theirs = pair.first.put(torch.ones(MIB)), pair.second.put(torch.zeros(MIB))
    for _ in range(5):
        link, back = pair.mesh.link(pair.first, pair.second), pair.mesh.link(pair.second, pair.first)
        there, here = pair.second.links.mint_transfer(), pair.first.links.mint_transfer()
        got_first = pair.first.receive_tensor(back.into, here, 30.0)
        pair.first.flush()
        pair.second.send_tensor(theirs.id, back.out, here, "activation")
        got_second = pair.second.receive_tensor(link.into, there, 30.0)
        pair.first.send_tensor(ours.id, link.out, there, "activation")
        pair.first.flush()
        pair.second.flush()
        ours, theirs = got_first, got_second
    assert fetch(ours).sum().item() == 0
    assert fetch(theirs).sum().item() == MIB


def ping_pong(context: zmq.Context[Any], machines: Machines, start_first: bool, results: list[object]) -> None:
    """A client of its own: twenty tensors to and fro, starting at one end."""
    ends = [machines.first, machines.second] if start_first else [machines.second, machines.first]
    try:
        source, target = (session_with(context, daemon, machines.key) for daemon in ends)
        mesh = PeerMesh()
        handle = source.put(torch.ones(100_000))
        for _ in range(20):
            handle = call(mesh.move(handle, target), "aten.add.Scalar", 1)
            target.flush()
            handle = mesh.move(handle, source)
            target.flush()
            source.flush()
        results.append(fetch(handle)[0].item())
        source.close()
        target.close()
    except BaseException as error:  # noqa: BLE001 - the test looks at it
        results.append(error)


def test_clients_that_use_the_daemons_in_opposite_order_do_not_deadlock(
    context: zmq.Context[Any], machines: Machines
) -> None:
    results: list[object] = []
    threads = [
        threading.Thread(target=ping_pong, args=(context, machines, bool(number % 2), results)) for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert results == [21.0] * 4


def test_a_session_that_waits_does_not_hold_up_another(
    pair: Pair, context: zmq.Context[Any], machines: Machines
) -> None:
    link = pair.mesh.link(pair.first, pair.second)
    transfer = pair.second.links.mint_transfer()
    waiting = pair.second.receive_tensor(link.into, transfer, 60.0)
    pair.second.flush()
    other = session_with(context, machines.second, machines.key)
    assert fetch(call(other.put(torch.ones(3)), "aten.add.Scalar", 1)).tolist() == [2.0] * 3
    other.close()
    pair.first.send_tensor(pair.first.put(torch.ones(2)).id, link.out, transfer, "activation")
    pair.first.flush()
    assert fetch(waiting).tolist() == [1.0, 1.0]


# --- measuring -------------------------------------------------------------------------------------------


def test_links_are_measured(pair: Pair) -> None:
    for speed in (pair.mesh.measure(pair.first, pair.second), pair.first.measure_link(), pair.second.measure_link()):
        assert 0 < speed.latency_s < 1
        assert 1e6 < speed.bytes_per_s < 1e12
    assert set(pair.first.counters.sent) <= {"control"}
    assert pair.first.counters.events["round_trips"] == 0
    assert pair.first.inspect().memory_used == 0, "what was uploaded is gone"
    assert pair.first.device.flops_per_s > 1e6
    assert pair.first.device.bytes_per_s > 1e6


def test_an_inspection_tells_memory_and_calls(pair: Pair) -> None:
    handle = pair.first.put(torch.ones(1000))
    kept = [call(handle, "aten.add.Scalar", 1) for _ in range(3)]
    found = pair.first.inspect()
    assert found.memory_used == 16_000
    assert [number for number, _, _ in found.spans] == [program(pair.first, "aten.add.Scalar", 1)] * 3
    assert pair.first.inspect().spans == ()
    assert len(kept) == 3


# --- what goes wrong -------------------------------------------------------------------------------------


def test_an_error_travels_with_the_tensor(pair: Pair) -> None:
    handle = pair.first.put(torch.ones(2, 3))
    broken = call(handle, "aten.mm.default", p.Ref(0))
    result = call(pair.move(broken, pair.second), "aten.add.Scalar", 1)
    back = call(pair.move(result, pair.first), "aten.add.Scalar", 1)
    here = r"(?s)mat1 and mat2.*in aten\.mm\.default.*in call \d+ of this session, made "
    for poisoned in (result, back, broken):
        with pytest.raises(RuntimeError, match=here):
            fetch(poisoned)
    assert pair.first.settle() is None, "who read it was told"
    assert pair.second.settle() is None, "it is no error of this one"
    assert fetch(pair.move(handle, pair.second)).sum().item() == 6


def test_a_tensor_that_is_never_sent_ends_the_wait_by_name(pair: Pair) -> None:
    link = pair.mesh.link(pair.first, pair.second)
    pair.mesh.measure(pair.first, pair.second)
    missing = pair.second.receive_tensor(link.into, pair.second.links.mint_transfer(), 0.3)
    after = call(pair.second.put(torch.ones(2)), "aten.add.Scalar", 1)
    with pytest.raises(RequestTimeout, match=r"within 0\.3 s.*which is open; does that daemon still compute") as caught:
        fetch(missing)
    assert pair.first.bulk_endpoint in str(caught.value)
    assert pair.second.bulk_endpoint in str(caught.value)
    assert fetch(after).tolist() == [2.0, 2.0]


def test_a_link_that_never_opened_says_what_to_check(pair: Pair) -> None:
    into = pair.second.links.admit(b"t" * 32, "", pair.first)
    missing = pair.second.receive_tensor(into, pair.second.links.mint_transfer(), 0.3)
    with pytest.raises(RequestTimeout, match=f"never opened; can that machine reach {pair.second.bulk_endpoint}"):
        fetch(missing)


def test_an_endpoint_where_nobody_listens_is_a_clear_error(pair: Pair) -> None:
    out = pair.first.links.open("tcp://127.0.0.1:9", b"t" * 32, None)
    with pytest.raises(DaemonUnavailable, match=r"nobody let us in at the worker at tcp://127\.0\.0\.1:9"):
        pair.first.links.measure(out)
    pair.first.send_tensor(pair.first.put(torch.ones(2)).id, out, 1, "activation")
    settled = pair.first.settle()
    assert settled is not None
    assert isinstance(settled[1], DaemonUnavailable)
    assert "did not open" in str(settled[1])
    pair.first.links.close(out)
    assert pair.first.settle() is None


def test_a_tensor_without_room_is_refused_and_the_link_goes_on(context: zmq.Context[Any], machines: Machines) -> None:
    with RealDaemon(memory_limit="8MiB") as small, ExitStack() as stack:
        source = session_with(context, machines.first, machines.key)
        target = session_with(context, small, None)
        stack.callback(source.close)
        stack.callback(target.close)
        mesh = PeerMesh()
        kept = [source.put(torch.ones(16 * MIB)), source.put(torch.ones(MIB))]
        refused, fits = (mesh.move(handle, target) for handle in kept)
        source.flush()
        with pytest.raises(GenieError, match="memory-limit"):
            fetch(refused)
        assert fetch(fits).sum().item() == MIB
        assert source.inspect().memory_used == 17 * MIB * 4


@pytest.mark.parametrize("victim", ["sender", "receiver"])
def test_a_worker_that_is_killed_is_an_error_and_the_other_goes_on(
    context: zmq.Context[Any], daemons: Machines, victim: str
) -> None:
    source, target = (session_with(context, daemon, None) for daemon in (daemons.first, daemons.second))
    mesh = PeerMesh()
    handle = source.put(torch.ones(1000))
    moved = mesh.move(handle, target)
    source.flush()
    assert fetch(moved).sum().item() == 1000
    link = mesh.link(source, target)
    missing = target.receive_tensor(link.into, target.links.mint_transfer(), 55.0)
    target.flush()
    os.kill((daemons.first if victim == "sender" else daemons.second).worker(), signal.SIGKILL)
    if victim == "sender":
        with pytest.raises(DaemonUnavailable, match="before the tensor came"):
            fetch(missing)
        survivor, daemon = target, daemons.first
    else:
        with pytest.raises((SessionLost, StaleHandleError)):
            fetch(missing)
        survivor, daemon = source, daemons.second
    assert survivor.alive
    assert fetch(call(survivor.put(torch.ones(2)), "aten.add.Scalar", 1)).tolist() == [2.0, 2.0]
    again = session_with(context, daemon, None)
    there = mesh.move(survivor.put(torch.ones(5)), again)
    back = mesh.move(there, survivor)
    survivor.flush()
    again.flush()
    assert fetch(back).tolist() == [1.0] * 5
    for session in (source, target, again):
        session.close()


def test_links_and_sessions_that_end_leave_nothing(context: zmq.Context[Any], machines: Machines) -> None:
    anchor = session_with(context, machines.first, machines.key)
    mesh, handle = PeerMesh(), anchor.put(torch.ones(1000))

    def visit() -> None:
        session = session_with(context, machines.second, machines.key)
        moved = mesh.move(mesh.move(handle, session), anchor)
        anchor.flush()
        session.flush()
        assert fetch(moved).sum().item() == 1000
        session.close()

    def descriptors() -> list[int]:
        return [len(os.listdir(f"/proc/{daemon.worker()}/fd")) for daemon in (machines.first, machines.second)]

    for _ in range(3):
        visit()
    before = descriptors()
    for _ in range(200):
        visit()
    mesh.close()
    anchor.sync()
    assert eventually(lambda: all(now <= then + 2 for now, then in zip(descriptors(), before, strict=True)))
    anchor.close()
    for daemon in (machines.first, machines.second):
        assert eventually(lambda daemon=daemon: daemon.status(machines.key).resident_nbytes == 0)


def test_an_address_of_one_machine_is_refused_to_another() -> None:
    for endpoint in ("tcp://127.0.0.1:7", "tcp://localhost:7", "tcp://[::1]:7", "ipc:///tmp/x"):
        require_reachable(endpoint, "tcp://127.0.0.1:8")
        require_reachable("tcp://10.0.0.1:8", endpoint)
        with pytest.raises(OptionError, match="cannot reach"):
            require_reachable(endpoint, "tcp://10.0.0.1:8")


# --- strangers -------------------------------------------------------------------------------------------


class Stranger:
    """A raw connection to a worker's bulk socket."""

    def __init__(self, context: zmq.Context[Any], session: Session, keys: m.PeerKeys | None) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        if keys is not None:
            self.socket.curve_serverkey = keys.server_public.encode()
            self.socket.curve_publickey = keys.public.encode()
            self.socket.curve_secretkey = keys.secret.encode()
        self.socket.connect(session.bulk_endpoint)

    def ask(self, message: m.PeerToBulk | m.ClientToBulk, *frames: bytes, wait_ms: int = 20_000) -> m.BulkToPeer | None:
        self.socket.send_multipart([codec.encode(message), *frames])
        return codec.bulk_to_peer(self.socket.recv()) if self.socket.poll(wait_ms) else None

    def __enter__(self) -> Stranger:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close(linger=0)


def admit_stranger(pair: Pair) -> tuple[int, bytes, m.PeerKeys | None]:
    token = os.urandom(32)
    keys = fresh_keys(pair.second.attachment.server_public) if pair.second.attachment.server_public else None
    return pair.second.links.admit(token, keys.public if keys else "", pair.first), token, keys


def test_a_wrong_token_or_key_gets_nobody_in(context: zmq.Context[Any], pair: Pair) -> None:
    _, token, keys = admit_stranger(pair)
    _, other_token, other_keys = admit_stranger(pair)
    with Stranger(context, pair.second, keys) as stranger:
        assert isinstance(stranger.ask(m.AttachPeer(1, b"w" * 32, PROTOCOLS[-1])), m.BulkFailed)
        refused = stranger.ask(m.TensorBegin(1, TensorSpec("float32", (1,), (1,)), "x", b"1234"))
        assert refused == m.Detached()
        if keys is not None:
            assert isinstance(stranger.ask(m.AttachPeer(1, other_token, PROTOCOLS[-1])), m.BulkFailed)
        assert isinstance(stranger.ask(m.AttachPeer(1, token, 99)), m.BulkFailed)
        assert stranger.ask(m.AttachPeer(2, token, PROTOCOLS[-1])) == m.Attached(2)
        assert isinstance(stranger.ask(m.AttachPeer(3, token, PROTOCOLS[-1])), m.BulkFailed)
    if other_keys is not None:
        with Stranger(context, pair.second, fresh_keys(pair.second.attachment.server_public)) as unknown:
            assert unknown.ask(m.AttachPeer(1, other_token, PROTOCOLS[-1]), wait_ms=500) is None


def test_a_link_says_its_own_messages_only(context: zmq.Context[Any], pair: Pair) -> None:
    """A key for a link opens no session, not even with the session's token, and a session's connection is no link."""
    _, token, keys = admit_stranger(pair)
    welcome = pair.second.attachment.welcome
    with Stranger(context, pair.second, keys) as stranger:
        if keys is not None:
            assert isinstance(stranger.ask(m.Attach(1, welcome.session, welcome.token)), m.BulkFailed)
        assert stranger.ask(m.AttachPeer(2, token, PROTOCOLS[-1])) == m.Attached(2)
        for message in (
            m.Attach(1, welcome.session, welcome.token),
            m.UploadBegin(1, 10),
            m.OpenPeer(1, "tcp://127.0.0.1:9", token, None),
            m.AdmitPeer(1, 1, token, "", "", ""),
            m.Credit(1),
        ):
            assert isinstance(stranger.ask(message), m.BulkFailed), message
    pair.second.sync()


def test_malformed_tensors_harm_nobody(context: zmq.Context[Any], pair: Pair) -> None:
    link, token, keys = admit_stranger(pair)
    big = TensorSpec("float32", (CHUNK_NBYTES,), (1,))
    with Stranger(context, pair.second, keys) as stranger:
        assert stranger.ask(m.AttachPeer(2, token, PROTOCOLS[-1])) == m.Attached(2)
        attacks: list[tuple[m.PeerToBulk, list[bytes]]] = [
            (m.TensorBegin(1, TensorSpec("float32", (2, 2), (1, 1)), "x"), []),
            (m.TensorBegin(2, TensorSpec("float32", (1 << 61, 1 << 61), (1 << 61, 1)), "x"), []),
            (m.TensorBegin(3, TensorSpec("float32", (4,), (1,)), "x", b"short"), []),
            (m.TensorBegin(4, big, "x"), []),
            (m.Chunk(4, 17), [b"x" * 17]),
            (m.TensorBegin(5, big, "x"), []),
            (m.Chunk(5, 0), [b"too short"]),
            (m.TensorBegin(6, big, "x"), []),
            (m.Chunk(6, 0), []),
            (m.TensorFailed(7, m.ErrorInfo("SystemExit", "x", "", 5, 5, "")), []),
        ]
        for message, frames in attacks:
            stranger.ask(message, *frames, wait_ms=50)
        stranger.socket.send_multipart([b"\xc1", b"x", b"y"])
        for transfer in (1, 2, 3, 4, 5, 6, 7):
            handle = pair.second.receive_tensor(link, transfer, 5.0)
            with pytest.raises((GenieError, RuntimeError)):
                fetch(handle)
        good = m.TensorBegin(8, TensorSpec("uint8", (3,), (1,)), "x", b"abc")
        stranger.ask(good, wait_ms=0)
        assert fetch(pair.second.receive_tensor(link, 8, 20.0)).tolist() == [97, 98, 99]
    assert pair.second.inspect().memory_used == 3


def test_two_processes_use_the_daemons_in_opposite_directions(machines: Machines) -> None:
    code = """
import sys, torch, zmq
from pathlib import Path
from dynamo_genie.runtime.connect.keys import load_client_keys
from dynamo_genie.runtime.connect.open_session import open_session
from dynamo_genie.runtime.session.peer_mesh import PeerMesh
key = load_client_keys(sys.argv[3]) if len(sys.argv) > 3 else None
context = zmq.Context()
source, target = (open_session(context, e, keys=key, connect_timeout_s=60, request_timeout_s=60) for e in sys.argv[1:3])
mesh, handle = PeerMesh(), source.put(torch.ones(300_000))
for _ in range(20):
    handle = mesh.move(mesh.move(handle, target), source)
    target.flush(), source.flush()
print(source.fetch([handle.id], ["output"])[0].sum().item())
source.close(), target.close()
"""
    ends = [machines.first.endpoint, machines.second.endpoint]
    key = [str(machines.key)] if machines.key is not None else []
    from tests.integration.real_daemon import REPOSITORY, environment

    clients = [
        subprocess.Popen(
            [sys.executable, "-c", code, *order, *key], stdout=subprocess.PIPE, env=environment(), cwd=REPOSITORY
        )
        for order in (ends, ends[::-1])
    ]
    for client in clients:
        out, _ = client.communicate(timeout=LIMIT_S)
        assert out.decode().strip() == "300000.0"
