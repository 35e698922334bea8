"""Tensors in the memory of shared weights: views see what is written to them, and nobody else does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dynamo_genie.errors import QuotaExceeded
from dynamo_genie.remote_daemon.memory.host_buffers import HostBufferStore
from dynamo_genie.remote_daemon.memory.kv_arena import KVArenas
from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget
from dynamo_genie.remote_daemon.memory.weight_store import WeightStore
from dynamo_genie.remote_daemon.worker.handle_table import HandleTable
from dynamo_genie.runtime.wire.messages import ErrorInfo
from dynamo_genie.runtime.wire.tensor import TensorSpec

SPEC = TensorSpec("float32", (4, 6), (6, 1))
NBYTES = 4 * 6 * 4
ERROR = ErrorInfo("ValueError", "why", "", -1, -1, "")


class Worker:
    """Two sessions' tables over one store."""

    def __init__(self, limit: int = 1 << 20) -> None:
        buffers = HostBufferStore()
        self.budget = MemoryBudget(limit)
        overhead = MemoryBudget(1 << 30)
        self.weights = WeightStore(buffers, self.budget, host_budget=overhead)
        arenas = KVArenas(self.budget, buffers.empty)
        self.one, self.two = (HandleTable(self.budget, self.weights, arenas, host_budget=overhead) for _ in range(2))

    def load(self, table: HandleTable, handle: int) -> Tensor:
        weight = self.weights.hold(b"w" * 16)
        if weight is None:
            memory = torch.arange(24, dtype=torch.float32).view(torch.uint8)
            weight = self.weights.load(SPEC, lambda allocate: (b"w" * 16, memory))
        table.adopt(handle, weight, viewed=True)
        return table.tensor(handle)


@pytest.fixture
def worker() -> Worker:
    return Worker()


def test_what_is_loaded_twice_lies_in_one_memory(worker: Worker) -> None:
    first, second, third = worker.load(worker.one, 1), worker.load(worker.one, 2), worker.load(worker.two, 1)
    assert first.data_ptr() == second.data_ptr() == third.data_ptr()
    assert worker.budget.used == NBYTES


def test_views_cost_nothing_and_see_what_is_written_to_the_tensor(worker: Worker) -> None:
    worker.load(worker.one, 1)
    worker.one.add(2, worker.one.tensor(1).t())
    worker.one.add(3, worker.one.tensor(2)[0])
    assert worker.budget.used == NBYTES
    worker.one.writable(1)[:, 0] = 7
    assert worker.one.tensor(3).tolist() == [7, 7, 7, 7]
    assert torch.equal(worker.one.tensor(2), worker.one.tensor(1).t())
    assert worker.budget.used == 2 * NBYTES


def test_the_tensor_sees_what_is_written_to_its_view(worker: Worker) -> None:
    worker.load(worker.one, 1)
    worker.one.add(2, worker.one.tensor(1)[1])
    worker.one.writable(2).fill_(-1)
    assert worker.one.tensor(1)[1].tolist() == [-1] * 6
    assert worker.one.tensor(1)[0].tolist() == [0, 1, 2, 3, 4, 5]


def test_another_tensor_with_the_same_content_does_not(worker: Worker) -> None:
    for table, handle in ((worker.one, 1), (worker.one, 2), (worker.two, 1)):
        worker.load(table, handle)
    worker.one.writable(1).zero_()
    assert worker.one.tensor(1).sum() == 0
    assert worker.one.tensor(2).sum() == worker.two.tensor(1).sum() == 276
    assert worker.load(worker.two, 5).sum() == 276


def test_the_weight_stays_while_a_view_does_and_goes_when_all_do(worker: Worker) -> None:
    worker.load(worker.one, 1)
    worker.one.add(2, worker.one.tensor(1)[2])
    worker.one.drop(1)
    worker.weights.free_unused(lambda: False)
    assert worker.one.tensor(2).tolist() == [12, 13, 14, 15, 16, 17]
    worker.one.drop(2)
    worker.weights.free_unused(lambda: False)
    assert worker.budget.used == 0
    assert not worker.one.aliases


def test_without_room_for_a_copy_the_only_user_writes_to_the_weight_itself() -> None:
    worker = Worker(limit=NBYTES)
    worker.load(worker.one, 1)
    worker.one.add(2, worker.one.tensor(1)[0])
    worker.one.writable(1).fill_(5)
    assert worker.one.tensor(2).tolist() == [5] * 6
    assert worker.weights.hold(b"w" * 16) is None


def test_without_room_for_a_copy_nobody_writes_to_what_others_have() -> None:
    worker = Worker(limit=NBYTES)
    worker.load(worker.one, 1)
    worker.load(worker.two, 1)
    with pytest.raises(QuotaExceeded, match="no room to copy a weight"):
        worker.one.writable(1)
    assert worker.one.tensor(1).sum() == worker.two.tensor(1).sum() == 276


def test_a_failed_write_spoils_the_views_that_it_would_have_changed_and_no_others(worker: Worker) -> None:
    worker.load(worker.one, 1)
    worker.one.add(2, worker.one.tensor(1)[0])
    worker.one.add(3, worker.one.tensor(1)[1])
    worker.one.spoil_memory(2, ERROR)
    for handle in (1, 2):
        with pytest.raises(Exception, match="why"):
            worker.one.tensor(handle)
    assert worker.one.tensor(3).tolist() == [6, 7, 8, 9, 10, 11]


def test_all_is_paid_back_at_the_end(worker: Worker) -> None:
    worker.load(worker.one, 1)
    worker.one.add(2, worker.one.tensor(1)[0])
    worker.one.clear()
    worker.weights.free_unused(lambda: False)
    assert worker.budget.used == 0
