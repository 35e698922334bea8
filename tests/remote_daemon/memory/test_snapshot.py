"""Snapshots: the bytes of one moment, whoever writes to the tensor afterwards, and at what cost in memory."""

from __future__ import annotations

import pytest
import torch

from dynamo_genie.errors import QuotaExceeded
from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget
from dynamo_genie.remote_daemon.memory.snapshot import CopiedSnapshot, SharedSnapshot


def test_a_shared_snapshot_costs_nothing_until_it_is_separated_and_then_what_was_not_read() -> None:
    budget, memory = MemoryBudget(100), torch.arange(10, dtype=torch.uint8)
    snapshot = SharedSnapshot(memory)
    assert bytes(snapshot.read(0, 4)) == bytes(range(4))
    assert budget.used == 0
    snapshot.separate(budget)
    memory.fill_(99)
    assert budget.used == 6
    assert bytes(snapshot.read(4, 8)) + bytes(snapshot.read(8, 10)) == bytes(range(4, 10))
    snapshot.end()
    snapshot.end()
    assert budget.used == 0


def test_a_piece_that_was_read_keeps_its_value() -> None:
    memory = torch.arange(4, dtype=torch.uint8)
    piece = SharedSnapshot(memory).read(0, 2)
    memory.fill_(99)
    assert bytes(piece) == bytes(range(2))


def test_a_snapshot_that_must_make_way_without_room_for_a_copy_refuses_its_reader() -> None:
    budget, memory = MemoryBudget(3), torch.arange(10, dtype=torch.uint8)
    snapshot = SharedSnapshot(memory)
    snapshot.separate(budget)
    with pytest.raises(QuotaExceeded, match=r"written before it was read.*10 bytes"):
        snapshot.read(0, 4)
    snapshot.end()
    assert budget.used == 0


def test_a_shared_snapshot_has_ended_when_its_last_byte_was_read() -> None:
    snapshot = SharedSnapshot(torch.arange(4, dtype=torch.uint8))
    snapshot.read(0, 2)
    assert not snapshot.ended
    snapshot.read(2, 4)
    assert snapshot.ended


def test_a_copied_snapshot_gives_its_room_back_once() -> None:
    budget = MemoryBudget(10)
    budget.reserve(4, "a copy")
    snapshot = CopiedSnapshot(memoryview(b"abcd"), budget)
    assert snapshot.read(1, 3) == b"bc"
    snapshot.end()
    snapshot.end()
    assert budget.used == 0
