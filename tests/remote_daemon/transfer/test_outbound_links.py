"""Links out of a worker against a socket that plays the other one: credits, limits of time, and what is left after."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import zmq

from dynamo_genie.errors import OptionError, ProtocolError, QuotaExceeded
from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget
from dynamo_genie.remote_daemon.transfer.mailboxes import SessionMailbox, SessionMailboxes
from dynamo_genie.remote_daemon.transfer.outbound_links import CONNECT_S, MAX_LINKS, MEASURE_S, STALL_S, OutboundLinks
from dynamo_genie.remote_daemon.transfer.outgoing import Outgoing
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.limits import CHUNK_NBYTES, UPLOAD_WINDOW
from dynamo_genie.runtime.wire.tensor import TensorSpec

SESSION = b"s" * 16
WAIT_MS = 10_000


class Bench:
    """Outbound links of one session, and a ROUTER at the other end of them."""

    def __init__(self, path: Path) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self.router = self._context.socket(zmq.ROUTER)
        self.endpoint = f"ipc://{path}/r"
        self.router.bind(self.endpoint)
        self.budget = MemoryBudget(1 << 30)
        self.mailboxes = SessionMailboxes(self.budget, lambda: None)
        self.mailboxes.admit(m.AdmitSession(SESSION, b"t" * 16, "test", ""))
        self.watched: dict[Any, Callable[[], None]] = {}
        self.links = OutboundLinks(self._context, self.mailboxes, self.watched.__setitem__, self.watched.pop)
        self.identity = b""

    @property
    def mailbox(self) -> SessionMailbox:
        [mailbox] = self.mailboxes.all()
        return mailbox

    def open(self, number: int = 1) -> None:
        self.links.open(self.mailbox, m.OpenPeer(number, self.endpoint, b"k" * 16, None))
        assert self.router.poll(WAIT_MS)
        self.identity, frame = self.router.recv_multipart()
        assert isinstance(codec.to_bulk(frame), m.AttachPeer)

    def say(self, message: m.BulkToPeer | bytes) -> None:
        """Answer as the other worker would, and let the link hear it."""
        data = message if isinstance(message, bytes) else codec.encode(message)
        self.router.send_multipart([self.identity, data])
        [(socket, readable)] = self.watched.items()
        assert socket.poll(WAIT_MS)
        readable()

    def heard(self) -> list[tuple[Any, int]]:
        """Return what has come: each message and the bytes of its second frame."""
        found = []
        while self.router.poll(100):
            _, frame, *data = self.router.recv_multipart()
            found.append((codec.to_bulk(frame), sum(map(len, data))))
        return found

    def send(self, nbytes: int, transfer: int = 1, link: int = 1) -> None:
        self.budget.reserve(nbytes, "a copy")
        spec = TensorSpec("uint8", (nbytes,), (1,))
        release = partial(self.budget.release, nbytes)
        self.links.send(self.mailbox, link, Outgoing(transfer, "x", spec, memoryview(bytes(nbytes)), release=release))

    def close(self) -> None:
        self.links.forget(SESSION)
        self.router.close(linger=0)
        self._context.term()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def test_what_is_sent_before_the_link_is_open_waits_for_it(bench: Bench) -> None:
    bench.send(10)
    bench.open()
    assert bench.heard() == [], "the other side has not let us in yet"
    bench.say(m.Attached(1))
    [(begun, _)] = bench.heard()
    assert begun == m.TensorBegin(1, TensorSpec("uint8", (10,), (1,)), "x", bytes(10))
    assert bench.budget.used == 0
    assert bench.mailbox.traffic.sent == (("x", 10),)


def test_no_more_is_sent_than_there_are_credits(bench: Bench) -> None:
    bench.open()
    bench.say(m.Attached(1))
    bench.send(20 * CHUNK_NBYTES)
    bench.send(10, transfer=2)
    assert len(bench.heard()) == UPLOAD_WINDOW
    bench.say(m.Credit(2))
    assert [nbytes for _, nbytes in bench.heard()] == [CHUNK_NBYTES] * 2
    bench.say(m.Credit(1 << 61))
    assert len(bench.heard()) == 20 + 2 - UPLOAD_WINDOW - 2, "credits never exceed the window"
    assert bench.budget.used == 0
    assert bench.mailbox.traffic.sent == (("x", 20 * CHUNK_NBYTES + 10),)


def test_a_tensor_that_is_refused_makes_way_for_the_next(bench: Bench) -> None:
    bench.open()
    bench.say(m.Attached(1))
    bench.send(40 * CHUNK_NBYTES)
    bench.send(10, transfer=2)
    bench.heard()
    bench.say(m.BulkFailed(1, "QuotaExceeded", "no room"))
    bench.say(m.Credit(1))
    [(next_one, _)] = bench.heard()
    assert next_one.transfer == 2
    assert bench.budget.used == 0


@pytest.mark.parametrize("opened", [False, True])
def test_a_link_that_does_not_open_in_time_fails(bench: Bench, opened: bool) -> None:
    if opened:
        bench.open()
    bench.send(10)
    now = time.monotonic()
    bench.links.tick(now + CONNECT_S - 1)
    assert not bench.mailbox.link_failures
    bench.links.tick(now + CONNECT_S + 1)
    assert "did not open" in bench.mailbox.link_failures[1]
    assert bench.budget.used == 0
    assert not bench.watched, "its socket is closed"
    bench.send(10)
    assert bench.budget.used == 0
    with pytest.raises(ProtocolError, match="opened before"):
        bench.links.open(bench.mailbox, m.OpenPeer(1, bench.endpoint, b"l" * 16, None))
    bench.links.close(SESSION, 1)
    assert not bench.mailbox.link_failures
    assert len(bench.links) == 0


def test_a_link_that_takes_nothing_fails_and_an_idle_one_does_not(bench: Bench) -> None:
    bench.open()
    bench.say(m.Attached(1))
    bench.links.tick(time.monotonic() + 10 * STALL_S)
    assert not bench.mailbox.link_failures
    bench.send(40 * CHUNK_NBYTES)
    bench.links.tick(time.monotonic() + STALL_S + 1)
    assert "took nothing" in bench.mailbox.link_failures[1]
    assert bench.budget.used == 0


@pytest.mark.parametrize("answer", [b"\xc1", m.BulkFailed(0, "ProtocolError", "go away")])
def test_a_link_ends_with_an_answer_that_makes_no_sense_or_refuses(bench: Bench, answer: bytes | m.BulkFailed) -> None:
    bench.open()
    bench.send(10)
    bench.say(answer)
    assert bench.endpoint in bench.mailbox.link_failures[1]
    assert bench.budget.used == 0


def test_a_measurement_is_answered_in_any_case(bench: Bench) -> None:
    answers: list[m.PeerMeasured] = []

    def measure(request_id: int) -> None:
        bench.links.measure(bench.mailbox, m.MeasurePeer(request_id, 1), answers.append)

    measure(1)
    measure(2)
    assert [(a.request_id, a.problem) for a in answers] == [(2, "the link is being measured already")]
    bench.open()
    bench.say(m.Attached(1))
    while len(answers) == 1:
        for ping, _ in bench.heard():
            bench.say(m.PeerPong(ping.number))
    assert (answers[1].request_id, answers[1].problem) == (1, "")
    assert answers[1].latency_s > 0 < answers[1].bytes_per_s
    measure(3)
    bench.links.tick(time.monotonic() + MEASURE_S + 1)
    assert answers[2].request_id == 3
    assert "no answer" in answers[2].problem
    measure(4)
    bench.links.close(SESSION, 1)
    assert answers[3].request_id == 4
    assert "closed" in answers[3].problem


@pytest.mark.parametrize("endpoint", ["", "tcp://127.0.0.1:*", "inproc://x", "tcp://127.0.0.1:99999"])
def test_an_endpoint_that_is_none_is_refused_and_nothing_is_left(bench: Bench, endpoint: str) -> None:
    with pytest.raises(OptionError):
        bench.links.open(bench.mailbox, m.OpenPeer(1, endpoint, b"k" * 16, None))
    assert not bench.watched
    bench.links.close(SESSION, 1)
    assert len(bench.links) == 0


def test_links_are_bounded_and_end_with_their_session(bench: Bench) -> None:
    for number in range(1, MAX_LINKS + 1):
        bench.send(10, link=number)
    with pytest.raises(QuotaExceeded):
        bench.links.open(bench.mailbox, m.OpenPeer(MAX_LINKS + 1, bench.endpoint, b"k" * 16, None))
    mailbox = bench.mailbox
    bench.mailboxes.drop(SESSION)
    bench.links.forget(SESSION)
    assert (len(bench.links), bench.budget.used) == (0, 0)
    bench.budget.reserve(10, "a copy")
    late = Outgoing(1, "x", None, memoryview(b""), release=partial(bench.budget.release, 10))
    bench.links.send(mailbox, 1, late)  # the executor did not know yet
    assert (len(bench.links), bench.budget.used) == (0, 0)
