"""Fetches of one session: values of the moment of the fetch, and the memory that unread ones take."""

from __future__ import annotations

import pytest
import torch

from dynamo_genie.remote_daemon.memory.snapshot import TensorSnapshot
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire import program as p
from tests.remote_daemon.worker_in_process import WorkerInProcess

NUMEL = 1 << 18
NBYTES = 4 * NUMEL


def add_in_place() -> p.Program:
    tensor = p.TensorInput()
    node = p.Node("aten.add_.Tensor", (p.Ref(0), 1.0))
    return p.Program(p.PROGRAM_VERSION, (tensor,), (), (node,), (p.Ref(1),), (0,))


class Fetching(WorkerInProcess):
    """A worker with a limit, and the snapshots that its session has handed over."""

    def __init__(self, memory_limit: int = 4 * NBYTES) -> None:
        self.sent: list[TensorSnapshot] = []
        super().__init__(memory_limit, send_bulk=self._keep)

    def _keep(self, snapshot: TensorSnapshot) -> int:
        self.sent.append(snapshot)
        return len(self.sent)

    def fetch(self, *handles: int) -> TensorSnapshot:
        reply = self.send(m.Fetch(1, handles))[-1]
        assert isinstance(reply, m.Fetched), reply
        return self.sent[-1]

    def add(self, handle: int) -> m.WorkerToClient:
        """Add 1 to a tensor where it lies; its result is dropped."""
        self.send(m.Call(self._number(add_in_place()), 0, (handle,), (0,)))
        return self.send(m.Sync(1))[0]


def values(snapshot: TensorSnapshot) -> torch.Tensor:
    halves = [bytes(snapshot.read(0, NBYTES // 2)), bytes(snapshot.read(NBYTES // 2, NBYTES))]
    snapshot.end()
    return torch.frombuffer(bytearray(b"".join(halves)), dtype=torch.float32)


def test_forty_unread_fetches_of_a_tensor_take_no_memory() -> None:
    worker = Fetching()
    handle = worker.put(torch.ones(NUMEL))
    for _ in range(40):
        worker.fetch(handle)
    assert worker.budget.used == NBYTES
    assert len(worker.session.handles) == 1


def test_a_fetched_tensor_that_is_freed_counts_until_it_was_read() -> None:
    worker = Fetching()
    handle = worker.put(torch.ones(NUMEL))
    snapshot = worker.fetch(handle)
    worker.free([handle])
    assert worker.budget.used == NBYTES
    assert torch.equal(values(snapshot), torch.ones(NUMEL))
    worker.free([])
    assert worker.budget.used == 0
    assert not worker.session.handles.lent


def test_unread_fetches_of_tensors_that_were_freed_end_at_the_limit() -> None:
    worker = Fetching()
    for _ in range(4):
        handle = worker.put(torch.ones(NUMEL))
        worker.fetch(handle)
        worker.free([handle])
    reply = worker.send(m.Put(99, m.InlineTensor(m.TensorSpec("uint8", (1,), (1,)), b"x")), m.Sync(1))[0]
    assert isinstance(reply, m.LateFailures)
    assert reply.errors[0].kind == "QuotaExceeded"


def test_a_fetch_has_the_values_of_its_moment_though_the_tensor_is_written_before_it_was_read() -> None:
    worker = Fetching()
    handle = worker.put(torch.ones(NUMEL))
    before = worker.fetch(handle)
    worker.add(handle)
    after = worker.fetch(handle)
    worker.add(handle)
    assert worker.budget.used == 3 * NBYTES  # two copies, for there were two writes
    assert torch.equal(values(before), torch.ones(NUMEL))
    assert torch.equal(values(after), torch.full((NUMEL,), 2.0))
    assert torch.equal(worker.value(handle), torch.full((NUMEL,), 3.0))
    assert worker.budget.used == NBYTES


def test_a_write_to_a_view_separates_what_was_fetched_of_the_whole() -> None:
    worker = Fetching()
    handle = worker.put(torch.ones(NUMEL))
    worker.session.handles.add(77, worker.value(handle)[:10])
    whole = worker.fetch(handle)
    worker.add(77)
    assert torch.equal(values(whole), torch.ones(NUMEL))


def test_a_write_goes_on_where_there_is_no_room_for_what_was_not_read_and_the_reader_is_refused() -> None:
    worker = Fetching(memory_limit=NBYTES)
    handle = worker.put(torch.ones(NUMEL))
    snapshot = worker.fetch(handle)
    assert isinstance(worker.add(handle), m.Done)
    with pytest.raises(Exception, match="written before it was read"):
        snapshot.read(0, 1)
    assert worker.budget.used == NBYTES


def test_a_tensor_with_gaps_is_copied_and_the_copy_counts() -> None:
    worker = Fetching()
    worker.session.handles.add(1, torch.ones(2 * NUMEL)[::2])
    snapshot = worker.fetch(1)
    assert worker.budget.used == 3 * NBYTES
    snapshot.end()
    assert worker.budget.used == 2 * NBYTES


def test_a_copy_that_would_pass_the_limit_is_refused_before_it_is_made() -> None:
    worker = Fetching(memory_limit=2 * NBYTES)
    worker.session.handles.add(1, torch.ones(2 * NUMEL)[::2])
    reply = worker.send(m.Fetch(1, (1,)))[0]
    assert isinstance(reply, m.Failed)
    assert reply.error.kind == "QuotaExceeded"
    assert not worker.sent


def test_a_session_that_closes_keeps_nothing_for_its_unread_fetches() -> None:
    worker = Fetching()
    worker.fetch(worker.put(torch.ones(NUMEL)))
    worker.session.close()
    assert worker.budget.used == 0
