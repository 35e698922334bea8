"""Ten thousand malformed messages do not stop a daemon from serving another session, whose results stay right."""

from __future__ import annotations

import os
import pickle
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynamo_genie.errors import GenieError, ProtocolError
from dynamo_genie.runtime.connect.admission import Admission
from dynamo_genie.runtime.connect.open_session import open_session
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.runtime.wire.limits import CHUNK_NBYTES
from dynamo_genie.runtime.wire.tensor import InlineTensor, TensorSpec
from dynamo_genie.runtime.wire.version import PROTOCOLS
from tests.integration.real_daemon import LIMIT_S, RealDaemon

pytestmark = pytest.mark.timeout(300)

MESSAGES = 10_000
CHECK_EVERY = 500
WAIT_MS = 20_000


def times_three() -> p.Program:
    return p.Program(
        p.PROGRAM_VERSION, (p.TensorInput(),), (), (p.Node("aten.mul.Scalar", (p.Ref(0), 3)),), (p.Ref(1),)
    )


@pytest.fixture(scope="module")
def daemon() -> Iterator[RealDaemon]:
    with RealDaemon(memory_limit="64MiB") as daemon:
        yield daemon


class Bystander:
    """A well-behaved session that computes between the attacks."""

    def __init__(self, context: zmq.Context[Any], daemon: RealDaemon) -> None:
        self._daemon = daemon
        self._pids = (daemon.pid, daemon.worker())
        self._session = open_session(
            context, daemon.endpoint, keys=None, connect_timeout_s=LIMIT_S, request_timeout_s=30
        )
        encoded = p.encode_program(times_three())
        self._program = self._session.register(p.program_digest(encoded), encoded, (None,))
        self._kept = self._session.put(torch.arange(4.0))
        self._count = 0

    def check(self) -> None:
        """Compute with what came before the attack and with something new, small and by bulk."""
        session = self._session
        self._count += 1
        fresh = torch.full((50_000,), float(self._count))
        handles = [self._kept, session.put(fresh)]
        results = [session.new_handle() for _ in handles]
        for handle, result in zip(handles, results, strict=True):
            session.post(m.Call(self._program, 0, (handle.id,), (result.id,)))
        kept, new = session.fetch([r.id for r in results], ["output"] * 2)
        assert torch.equal(kept, torch.arange(4.0) * 3)
        assert torch.equal(new, fresh * 3)
        assert (self._daemon.pid, self._daemon.worker()) == self._pids, "a process of the daemon was replaced"

    def close(self) -> None:
        self._session.close()


@pytest.fixture(scope="module")
def context() -> Iterator[zmq.Context[Any]]:
    context: zmq.Context[Any] = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def bystander(context: zmq.Context[Any], daemon: RealDaemon) -> Iterator[Bystander]:
    bystander = Bystander(context, daemon)
    bystander.check()
    yield bystander
    bystander.check()
    bystander.close()


class Attacker:
    """Raw connections: to the public endpoint, and to a worker's two sockets with and without a session."""

    def __init__(self, context: zmq.Context[Any], daemon: RealDaemon) -> None:
        self._context = context
        self.admission = Admission.open(daemon.endpoint, keys=None, connect_timeout_s=LIMIT_S, on_lost=lambda _: None)
        welcome = self.admission.welcome
        self.attach_message = m.Attach(1, welcome.session, welcome.token)
        self.public = self.connect(daemon.endpoint)
        self.control, self.bulk = self.connect(welcome.control), self.connect(welcome.bulk)
        self.stranger, self.bulk_stranger = self.connect(welcome.control), self.connect(welcome.bulk)
        self.sequence = 0
        self.attach()

    @property
    def all(self) -> list[zmq.Socket[Any]]:
        return [self.public, self.control, self.bulk, self.stranger, self.bulk_stranger]

    def connect(self, endpoint: str) -> zmq.Socket[Any]:
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVTIMEO, WAIT_MS)
        socket.setsockopt(zmq.SNDTIMEO, WAIT_MS)
        socket.connect(endpoint)
        return socket

    def attach(self) -> None:
        """Take the session, again where a socket was cut off meanwhile."""
        for socket in (self.control, self.bulk):
            self.drain(socket)
            socket.send(codec.encode(self.attach_message))
            while codec_name(socket.recv_multipart()[0]) != "Attached":
                pass

    def drain(self, socket: zmq.Socket[Any]) -> None:
        while socket.poll(0):
            socket.recv_multipart()

    def batch(self, *commands: m.Command) -> bytes:
        self.sequence += 1
        return codec.encode(m.Batch(self.sequence, commands))

    def ask(self, *commands: m.Command) -> m.WorkerToClient:
        """Send commands on the attached control socket and return the answer to the last one."""
        self.drain(self.control)
        self.control.send(self.batch(*commands))
        return codec.worker_to_client(self.control.recv())

    def send(self, socket: zmq.Socket[Any], frames: list[bytes]) -> None:
        socket.send_multipart(frames)
        self.drain(socket)

    def close(self) -> None:
        self.admission.close()
        for socket in self.all:
            socket.close(linger=0)


@pytest.fixture
def attacker(context: zmq.Context[Any], daemon: RealDaemon) -> Iterator[Attacker]:
    attacker = Attacker(context, daemon)
    yield attacker
    attacker.close()


def codec_name(data: bytes) -> str:
    found = msgspec.msgpack.decode(data)
    return str(found[0]) if isinstance(found, list) and found else ""


# --- what to send ----------------------------------------------------------------------------------------

SMALL = TensorSpec("float32", (2,), (1,))
ENCODED = p.encode_program(times_three())
ENDPOINTS = ["tcp://127.0.0.1:9", "ipc:///nowhere/at/all", "tcp://127.0.0.1:*", "inproc://x", "tcp://999.1.1.1:1", ""]
KEYS = m.PeerKeys("a" * 40, "b" * 40, "c" * 40)


def valid_commands(random_: random.Random) -> list[m.Command]:
    """A little session: every kind of command, most of them right."""
    inline = InlineTensor(SMALL, struct.pack("2f", 1, 2))
    number = random_.randrange(1, 50)
    return [
        m.RegisterProgram(1, p.program_digest(ENCODED), ENCODED),
        m.Put(number, inline),
        m.Call(1, 0, (number,), (number + 50,)),
        m.Call(1, 0, (inline,), (number + 100,)),
        m.BindWeights(1, 1, (0,), (number,)),
        m.Call(1, 1, (), (number + 150,)),
        m.PutUploaded(number + 200, SMALL, 1),
        m.QueryWeights(2, (b"\1" * 16,)),
        m.StoreWeight(b"\1" * 16, SMALL, 1),
        m.AdoptWeight(number + 300, b"\1" * 16, SMALL),
        m.PatchWeight(number, 0, 1),
        m.Fetch(3, (number + 50,)),
        m.Describe(4, (number + 50,)),
        m.SendTensor(number + 50, 3, 1, "activation"),
        m.ReceiveTensor(number + 350, 3, random_.randrange(1, 9), 0.0),
        m.Free((number, number + 50)),
        m.Inspect(6),
        m.ListModels(7, random_.choice([0, 5, 1 << 61])),
        m.DescribeModel(8, random_.choice(["", ".", "..", "x\0", "model"]), random_.choice([0, 1 << 61])),
        m.LoadWeights(random_.choice([0, 9]), (number + 400,), "model", ("a",), random_.choice(["", "float16"])),
        m.LoadWeights(9, (number + 401, number + 402), "model", ("a",), "", (b"\1" * 16,)),
        m.Sync(5),
    ]


def valid_bulk_messages(random_: random.Random) -> list[m.ClientToBulk | m.PeerToBulk]:
    """What clients and other workers say on bulk sockets; here, each says the other's too."""
    small, token, link = random_.randrange(1, 9), random_.randbytes(32), random_.randrange(1, 5)
    return [
        m.UploadBegin(small, random_.choice([0, 8, CHUNK_NBYTES + 5, 1 << 40])),
        m.Chunk(small, random_.choice([0, 8, CHUNK_NBYTES, 1 << 61])),
        m.UploadAbort(small),
        m.Credit(random_.choice([1, 1 << 61])),
        m.AdmitPeer(1, link, token, random_.choice(["", "k" * 40]), "a", "b"),
        m.DismissPeer(link, "no more"),
        m.OpenPeer(link, random_.choice(ENDPOINTS), token, random_.choice([None, KEYS])),
        m.ClosePeer(link),
        m.MeasurePeer(2, link),
        m.AttachPeer(3, token, random_.choice([*PROTOCOLS, 0, 99])),
        m.TensorBegin(small, SMALL, "activation", b"12345678"),
        m.TensorBegin(small, TensorSpec("float32", (1 << 61, 1 << 61), (1, 1)), "activation"),
        m.TensorFailed(small, m.ErrorInfo("ValueError", "x", "", 1, 1, "")),
        m.PeerPing(small, b"x" * 9),
    ]


def valid_messages(attacker: Attacker, random_: random.Random) -> list[bytes]:
    commands = valid_commands(random_)
    chosen = tuple(random_.sample(commands, random_.randrange(1, len(commands))))
    found: list[Any] = [
        m.Batch(attacker.sequence + 1, chosen),
        m.Hello(1, PROTOCOLS, "fuzz"),
        m.Heartbeat(1, attacker.attach_message.session),
        m.StatusRequest(1),
        *valid_bulk_messages(random_),
        attacker.attach_message,
    ]
    return [codec.encode(message) for message in found]


def huge_lengths(random_: random.Random) -> bytes:
    """Msgpack that announces billions of items or bytes, alone or inside a message."""
    kind = random_.choice([b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xdc", b"\xc9"])
    declared = kind + b"\xff\xff\xff\xff"
    return random_.choice([declared, b"\x93\xa1b\x01" + declared, b"\x94\xa1C\x01\x00" + declared])


def wrong_types(random_: random.Random) -> bytes:
    tags = "b C P B A K S G N R V T F I L M J Attach AttachPeer AdmitPeer OpenPeer MeasurePeer".split()
    tags += ["Hello", "Heartbeat", "Goodbye", "?"]
    junk: list[Any] = [None, True, -1, 2**64 - 1, 1e308, "x" * 5000, b"", [], {}, [[]] * 40, {"a": 1}, ["b"], -(2**63)]
    body = [random_.choice(tags), *(random_.choice(junk) for _ in range(random_.randrange(0, 7)))]
    nested: Any = body
    for _ in range(random_.choice([0, 0, 0, 3, 400])):
        nested = [nested]
    return msgspec.msgpack.encode(nested)


def wrong_handles(attacker: Attacker, random_: random.Random) -> bytes:
    wrong = random_.choice([0, 7_777, (1 << 62) - 1])
    commands: tuple[m.Command, ...] = (
        m.Call(wrong, wrong, (wrong,), (wrong, wrong)),
        m.Fetch(1, (wrong,) * 3),
        m.Describe(2, (wrong,)),
        m.Free((wrong,) * 5),
        m.BindWeights(wrong, wrong, (wrong,), (wrong,)),
        m.PatchWeight(wrong, wrong, wrong),
        m.SendTensor(wrong, wrong, wrong, ""),
        m.ReceiveTensor(wrong, wrong, wrong, 0.0),
        m.RegisterProgram(wrong, b"\2" * 32, b"", wrong),
        m.Put(wrong, InlineTensor(TensorSpec("float32", (1 << 40,), (1,)), b"\0" * 4)),
        m.Put(9, InlineTensor(TensorSpec("float32", (2, 2), (1, 1)), b"\0" * 16)),
        m.Put(9, InlineTensor(SMALL, b"\0" * 8, packed=True)),
    )
    attacker.sequence += 1
    return codec.encode(m.Batch(attacker.sequence, tuple(random_.sample(commands, 4))))


def flip_bits(data: bytes, random_: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(random_.randrange(1, 6)):
        changed[random_.randrange(len(changed))] ^= 1 << random_.randrange(8)
    return bytes(changed)


def attack(attacker: Attacker, random_: random.Random) -> tuple[zmq.Socket[Any], list[bytes]]:
    """One malformed or misplaced message, and where to send it."""
    socket = random_.choice(attacker.all)
    valid = random_.choice(valid_messages(attacker, random_))
    kind = random_.randrange(12)
    if kind == 0:
        return socket, [random_.randbytes(random_.randrange(0, 200))]
    if kind == 1:
        return socket, [valid[: random_.randrange(len(valid))]]
    if kind in (2, 3, 4):
        return socket, [flip_bits(valid, random_)]
    if kind == 5:
        return socket, [wrong_types(random_)]
    if kind == 6:
        return socket, [huge_lengths(random_)]
    if kind == 7:
        return attacker.control, [wrong_handles(attacker, random_)]
    if kind == 8:  # again, and out of order
        return attacker.control, [
            codec.encode(m.Batch(random_.choice([0, 1, attacker.sequence, 1 << 61]), (m.Sync(1),)))
        ]
    if kind == 9:
        return socket, [codec.encode(m.Attach(1, random_.randbytes(16), random_.randbytes(32)))]
    if kind == 10:  # chunks out of order, without data, too short, with too many frames
        chunk = codec.encode(m.Chunk(random_.randrange(1, 9), random_.choice([0, 1, CHUNK_NBYTES])))
        return attacker.bulk, [
            chunk,
            *(random_.choice([b"", b"x" * 8, b"y" * 5_000]) for _ in range(random_.randrange(4))),
        ]
    return socket, [valid] * random_.randrange(1, 4)


# --- tests -----------------------------------------------------------------------------------------------


def test_ten_thousand_malformed_messages(attacker: Attacker, bystander: Bystander) -> None:
    random_ = random.Random(20240917)
    for number in range(MESSAGES):
        socket, frames = attack(attacker, random_)
        attacker.send(socket, frames)
        if number % CHECK_EVERY == CHECK_EVERY - 1:
            attacker.attach()
            bystander.check()


def test_frames_above_the_limit_cut_off_their_sender_only(attacker: Attacker, bystander: Bystander) -> None:
    for _ in range(3):
        attacker.send(attacker.bulk, [codec.encode(m.UploadBegin(1, 4 * CHUNK_NBYTES))])
        attacker.send(attacker.bulk, [codec.encode(m.Chunk(1, 0)), b"z" * (2 * CHUNK_NBYTES)])
        attacker.send(attacker.control, [b"z" * (2 * CHUNK_NBYTES)])
        attacker.send(attacker.public, [b"z" * (2 * CHUNK_NBYTES)])
        bystander.check()


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=20,
)
TAGS = st.sampled_from(["P", "B", "C", "F", "I", "U", "Q", "W", "A", "X", "G", "D", "S", "T", "N", "R", "V", "r", "i"])
IDS = st.integers(0, 20) | st.sampled_from([(1 << 62) - 1, 1 << 62, -1])
PARTS = IDS | st.binary(min_size=16, max_size=16) | st.lists(IDS, max_size=4) | JUNK
COMMANDS = st.lists(st.builds(lambda tag, parts: [tag, *parts], TAGS, st.lists(PARTS, max_size=6)), max_size=5)


@settings(max_examples=1_000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(commands=COMMANDS, where=st.integers(0, 4))
def test_commands_of_the_right_shape_with_anything_in_them(
    attacker: Attacker, bystander: Bystander, commands: list[Any], where: int
) -> None:
    attacker.sequence += 1
    attacker.send(attacker.all[where], [msgspec.msgpack.encode(["b", attacker.sequence, commands])])


def test_a_session_that_was_attacked_goes_on_itself(attacker: Attacker, bystander: Bystander) -> None:
    assert isinstance(attacker.ask(m.Sync(1)), m.Done)
    for data in (b"", b"\xc1", msgspec.msgpack.encode(["b", 1]), ENCODED):
        attacker.control.send(data)
        refused = codec.worker_to_client(attacker.control.recv())
        assert isinstance(refused, m.Failed)
        assert refused.error.kind == "ProtocolError"
    put = m.Put(1, InlineTensor(SMALL, struct.pack("2f", 1, 2)))
    register = m.RegisterProgram(1, p.program_digest(ENCODED), ENCODED)
    reply = attacker.ask(register, put, m.Call(1, 0, (1,), (2,)), m.Fetch(7, (2,)))
    assert isinstance(reply, m.Fetched)
    assert struct.unpack("2f", reply.tensors[0].data) == (3, 6)


def test_a_batch_that_comes_twice_runs_once_and_is_answered_alike(attacker: Attacker) -> None:
    put = m.Put(1, InlineTensor(SMALL, struct.pack("2f", 1, 2)))
    double = p.Program(
        p.PROGRAM_VERSION, (p.TensorInput(),), (), (p.Node("aten.mul_.Scalar", (p.Ref(0), 2)),), (), mutated_inputs=(0,)
    )
    encoded = p.encode_program(double)
    attacker.ask(m.RegisterProgram(1, p.program_digest(encoded), encoded), put, m.Sync(1))
    batch = attacker.batch(m.Call(1, 0, (1,), ()), m.Fetch(2, (1,)))
    answers = []
    for _ in range(2):
        attacker.control.send(batch)
        answers.append(attacker.control.recv())
    assert answers[0] == answers[1]
    reply = attacker.ask(m.Fetch(3, (1,)))
    assert isinstance(reply, m.Fetched)
    assert struct.unpack("2f", reply.tensors[0].data) == (2, 4)


def test_a_lost_batch_does_not_go_unnoticed(attacker: Attacker) -> None:
    attacker.ask(m.Sync(1))
    attacker.sequence += 1  # this one never arrives
    assert attacker.ask(m.Sync(2)) == m.Detached()


def refusal(attacker: Attacker, digest: bytes, encoded: bytes) -> m.ErrorInfo:
    reply = attacker.ask(m.RegisterProgram(1, digest, encoded), m.Sync(1))
    assert isinstance(reply, m.LateFailures)
    assert isinstance(codec.worker_to_client(attacker.control.recv()), m.Done)
    return reply.errors[0]


@pytest.mark.parametrize("operator", ["aten.no_such_thing.default", "torch.os.system", "builtins.eval", "aten.mul", ""])
def test_an_operator_outside_the_table_is_refused(attacker: Attacker, operator: str) -> None:
    program = p.Program(p.PROGRAM_VERSION, (p.TensorInput(),), (), (p.Node(operator, (p.Ref(0),)),), (p.Ref(1),))
    encoded = p.encode_program(program)
    error = refusal(attacker, p.program_digest(encoded), encoded)
    assert error.kind in ("ProtocolError", "UnsupportedOperator")
    assert operator in error.message


def test_a_forward_reference_is_refused(attacker: Attacker) -> None:
    program = p.Program(
        p.PROGRAM_VERSION,
        (),
        (),
        (p.Node("aten.neg.default", (p.Ref(1),)), p.Node("aten.neg.default", (p.Ref(0),))),
        (p.Ref(1),),
    )
    encoded = p.encode_program(program)
    error = refusal(attacker, p.program_digest(encoded), encoded)
    assert error.kind == "ProtocolError"
    assert "refers to value" in error.message


def test_a_digest_that_does_not_match_is_refused(attacker: Attacker) -> None:
    error = refusal(attacker, b"\3" * 32, ENCODED)
    assert error.kind == "ProtocolError"
    assert "digest" in error.message
    reply = attacker.ask(m.Call(1, 0, (InlineTensor(SMALL, b"\0" * 8),), (5,)), m.Fetch(2, (5,)))
    assert isinstance(reply, m.Fetched)
    [poisoned] = reply.tensors
    assert isinstance(poisoned, m.ErrorInfo)
    assert poisoned == error


def test_an_attachment_with_a_wrong_token_is_refused(attacker: Attacker) -> None:
    wrong = codec.encode(m.Attach(1, attacker.attach_message.session, b"\0" * 32))
    attacker.stranger.send(wrong)
    refused = codec.worker_to_client(attacker.stranger.recv())
    assert isinstance(refused, m.Failed)
    attacker.bulk_stranger.send(wrong)
    assert isinstance(codec.bulk_to_client(attacker.bulk_stranger.recv()), m.BulkFailed)
    attacker.stranger.send(codec.encode(m.Batch(1, (m.Sync(1),))))
    assert codec.worker_to_client(attacker.stranger.recv()) == m.Detached()


def test_who_attaches_to_a_session_that_is_over_hears_so(attacker: Attacker) -> None:
    attacker.bulk_stranger.send(codec.encode(m.Attach(1, b"\0" * 16, b"\0" * 32)))
    said = codec.bulk_to_client(attacker.bulk_stranger.recv())
    assert isinstance(said, m.BulkFailed)
    assert said.code == "SessionLost"


class Payload:
    """Unpickling it would make a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self._path),)


def test_a_pickle_is_a_protocol_error_and_nothing_runs(attacker: Attacker, tmp_path: Path) -> None:
    trap = tmp_path / "executed"
    data = pickle.dumps(Payload(trap))
    codes = []
    for socket, decode in (
        (attacker.public, codec.supervisor_to_client),
        (attacker.control, codec.worker_to_client),
        (attacker.stranger, codec.worker_to_client),
        (attacker.bulk, codec.bulk_to_client),
    ):
        socket.send(data)
        reply: Any = decode(socket.recv())
        codes.append(reply.error.kind if isinstance(reply, m.Failed) else reply.code)
    assert codes == ["ProtocolError"] * 4
    error = refusal(attacker, p.program_digest(data), data)
    assert error.kind == "ProtocolError"
    assert not trap.exists()
    pickle.loads(data)
    assert trap.exists(), "the payload is a real one"


def test_every_decoder_refuses_with_protocol_error_only() -> None:
    """Whatever the bytes are: the processes around the decoders rely on it."""
    random_ = random.Random(7)
    decoders = (codec.client_to_supervisor, codec.client_to_worker, codec.to_bulk, codec.bulk_to_peer, p.decode_program)
    sources = [
        codec.encode(m.Batch(1, tuple(valid_commands(random_)))),
        ENCODED,
        codec.encode(m.Hello(1, PROTOCOLS, "x")),
    ]
    sources += [codec.encode(message) for message in valid_bulk_messages(random_)]
    for number in range(MESSAGES):
        data = [
            random_.randbytes(random_.randrange(80)),
            flip_bits(random_.choice(sources), random_),
            wrong_types(random_),
            huge_lengths(random_),
        ][number % 4]
        for decode in decoders:
            try:
                decode(data)
            except ProtocolError:
                continue
            except GenieError as error:
                raise AssertionError(f"{data!r} raised {error!r}") from error


def test_a_session_that_waits_for_a_tensor_holds_up_nobody_and_cannot_fill_the_worker(
    attacker: Attacker, bystander: Bystander
) -> None:
    """Whoever sends on and on behind a wait loses that session, and only that."""
    attacker.control.send(attacker.batch(m.ReceiveTensor(1, 1, 1, 3600.0)))
    inline = InlineTensor(TensorSpec("uint8", (60_000,), (1,)), bytes(60_000))
    for number in range(400):
        attacker.control.send(attacker.batch(m.Put(2 + number, inline)))
        if number % 10 == 0:
            bystander.check()  # in turns, so that what was sent is read, and its connection is not cut for that
    refused = codec.worker_to_client(attacker.control.recv())
    assert isinstance(refused, m.Failed)
    assert refused.error.kind == "SessionLost"
    assert "of commands wait to run" in refused.error.message


def test_a_session_opens_a_bounded_number_of_links(attacker: Attacker, bystander: Bystander) -> None:
    for number in range(1, 300):
        attacker.bulk.send(codec.encode(m.OpenPeer(number, "tcp://127.0.0.1:9", b"t" * 32, None)))
        attacker.bulk.send(codec.encode(m.AdmitPeer(number, number, number.to_bytes(32, "big"), "", "", "")))
    answers = [codec.bulk_to_client(attacker.bulk.recv()) for _ in range(299 + 299 - 64)]
    assert {answer.code for answer in answers if isinstance(answer, m.BulkFailed)} == {"QuotaExceeded"}
    assert sum(isinstance(answer, m.Attached) for answer in answers) == 256
