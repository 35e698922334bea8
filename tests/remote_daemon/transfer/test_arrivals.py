"""Tensors of other workers: whole or in chunks, failed, cut, given up; nothing is left, nobody is woken in vain."""

from __future__ import annotations

import struct

import pytest

from dynamo_genie.errors import DaemonUnavailable, ProtocolError, QuotaExceeded
from dynamo_genie.remote_daemon.channel.error_record import error_record
from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget
from dynamo_genie.remote_daemon.transfer.arrivals import MAX_CUT, Arrivals, ArrivedTensor
from dynamo_genie.remote_daemon.transfer.staging import Staging
from dynamo_genie.remote_daemon.transfer.traffic import MAX_KINDS, PeerTraffic
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.tensor import TensorSpec

PAIR = TensorSpec("float32", (2,), (1,))
BYTES = struct.pack("2f", 1, 2)
LOST = error_record(DaemonUnavailable("gone"))


class Box:
    """Arrivals with a small budget and a count of wake-ups."""

    def __init__(self, limit: int = 1000) -> None:
        self.budget = MemoryBudget(limit)
        self.traffic = PeerTraffic()
        self.wakes = 0
        self.arrivals = Arrivals(Staging(self.budget), self.traffic, self._wake)

    def _wake(self) -> None:
        self.wakes += 1


@pytest.fixture
def box() -> Box:
    return Box()


def test_a_small_tensor_arrives_whole(box: Box) -> None:
    box.arrivals.begin(1, m.TensorBegin(5, PAIR, "activation", BYTES))
    assert box.wakes == 0, "nobody waited"
    found = box.arrivals.take(1, 5)
    assert isinstance(found, ArrivedTensor)
    assert bytes(found.upload.view) == BYTES
    assert box.traffic.received == (("activation", 8),)
    assert box.budget.used == 0


def test_a_large_one_arrives_in_chunks_and_wakes_who_waits_for_it_only(box: Box) -> None:
    box.arrivals.begin(1, m.TensorBegin(5, PAIR, "kv_cache"))
    assert box.arrivals.take(1, 5) is None
    box.arrivals.begin(1, m.TensorBegin(6, PAIR, "kv_cache", BYTES))
    box.arrivals.begin(2, m.TensorBegin(5, PAIR, "kv_cache", BYTES))
    assert (box.wakes, box.arrivals.awaited_link) == (0, 1)
    upload = box.arrivals.staging.find((1, 5))
    assert upload is not None
    upload.room(0)[:] = BYTES
    assert upload.advance(8)
    box.arrivals.complete(1, 5)
    assert box.wakes == 1
    assert isinstance(box.arrivals.take(1, 5), ArrivedTensor)
    assert box.arrivals.awaited_link == 0


@pytest.mark.parametrize(
    ("spec", "data"),
    [
        (PAIR, BYTES[:4]),
        (TensorSpec("float32", (2, 2), (1, 1)), BYTES * 2),
        (TensorSpec("float32", (2, 2), (1,)), BYTES * 2),
        (TensorSpec("float32", (2,), (2,)), b""),
    ],
)
def test_a_description_that_does_not_fit_is_refused_before_memory_is_taken(
    box: Box, spec: TensorSpec, data: bytes
) -> None:
    with pytest.raises(ProtocolError):
        box.arrivals.begin(1, m.TensorBegin(5, spec, "x", data))
    assert box.budget.used == 0


def test_a_tensor_that_has_no_room_is_refused(box: Box) -> None:
    for shape in ((1 << 40,), (1 << 61, 1 << 61)):
        with pytest.raises(QuotaExceeded):
            box.arrivals.begin(
                1, m.TensorBegin(5, TensorSpec("float32", shape, (shape[-1],) * (len(shape) - 1) + (1,)), "x")
            )
    assert box.budget.used == 0


def test_a_failure_is_taken_in_the_place_of_the_tensor_and_wakes(box: Box) -> None:
    box.arrivals.begin(1, m.TensorBegin(5, PAIR, "x"))
    assert box.arrivals.take(1, 5) is None
    box.arrivals.fail(1, 5, LOST)
    assert box.wakes == 1
    assert box.arrivals.take(1, 5) == LOST
    assert box.budget.used == 0


def test_a_failure_after_the_tensor_takes_it_back(box: Box) -> None:
    box.arrivals.begin(1, m.TensorBegin(5, PAIR, "x", BYTES))
    box.arrivals.fail(1, 5, LOST)
    assert box.arrivals.take(1, 5) == LOST
    assert box.budget.used == 0


def test_a_link_that_is_cut_keeps_what_is_complete(box: Box) -> None:
    box.arrivals.begin(1, m.TensorBegin(5, PAIR, "x", BYTES))
    box.arrivals.begin(1, m.TensorBegin(6, PAIR, "x"))
    box.arrivals.begin(2, m.TensorBegin(6, PAIR, "x"))
    assert box.arrivals.take(1, 6) is None
    box.arrivals.cut(1, LOST)
    assert box.wakes == 1
    assert box.arrivals.take(1, 6) == LOST
    assert isinstance(box.arrivals.take(1, 5), ArrivedTensor)
    assert box.arrivals.take(2, 6) is None
    assert box.budget.used == 8, "the other link's is still on its way"


def test_what_nobody_waits_for_any_more_is_refused_and_its_room_given_back(box: Box) -> None:
    box.arrivals.begin(1, m.TensorBegin(5, PAIR, "x"))
    assert box.arrivals.take(1, 5) is None
    box.arrivals.give_up(1, 5)
    assert box.budget.used == 0
    box.arrivals.complete(1, 5)
    with pytest.raises(QuotaExceeded, match="gave up"):
        box.arrivals.begin(1, m.TensorBegin(5, PAIR, "x", BYTES))
    assert box.traffic.received == ()


def test_a_thousand_links_and_classes_leave_a_bounded_memory(box: Box) -> None:
    for number in range(1, 2000):
        box.arrivals.begin(number, m.TensorBegin(1, PAIR, f"kind {number}", BYTES))
        box.arrivals.cut(number, LOST)
        assert isinstance(box.arrivals.take(number, 1), ArrivedTensor)
    assert len(box.arrivals._cut) == MAX_CUT
    assert len(box.traffic.received) <= MAX_KINDS + 1
    assert sum(count for _, count in box.traffic.received) == 1999 * 8


def test_the_worker_counts_what_its_sessions_count() -> None:
    worker = PeerTraffic()
    for session in (PeerTraffic(worker), PeerTraffic(worker)):
        session.count_sent("activation", 3)
        session.count_received("kv_cache", 4)
    assert (worker.sent, worker.received) == ((("activation", 6),), (("kv_cache", 8),))
