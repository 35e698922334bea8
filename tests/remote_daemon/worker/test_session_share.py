"""The share of a session: what it may take of a worker, whatever it is, so that others find room."""

from __future__ import annotations

import pytest
import torch

from dynamo_genie.errors import QuotaExceeded
from dynamo_genie.remote_daemon.memory.host_buffers import HostBufferStore
from dynamo_genie.remote_daemon.memory.offloader import Offloader
from dynamo_genie.remote_daemon.transfer.staging import Staging
from dynamo_genie.remote_daemon.worker.state import WorkerState, open_state
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.content import content_digest
from dynamo_genie.runtime.wire.tensor import TensorSpec
from tests.remote_daemon.worker_in_process import WorkerInProcess

LIMIT = 1 << 20
HALF = LIMIT // 2
SPEC = TensorSpec("uint8", (HALF,), (1,))


@pytest.fixture
def state() -> WorkerState:
    return open_state(HostBufferStore(), Offloader(LIMIT), session_share=0.5)


def room(nbytes: int) -> torch.Tensor:
    return torch.zeros(nbytes, dtype=torch.uint8)


def test_a_session_has_its_share_and_its_neighbour_the_rest(state: WorkerState) -> None:
    hog, neighbour = WorkerInProcess(state=state), WorkerInProcess(state=state)
    hog.session.handles.add(1, room(HALF))
    with pytest.raises(QuotaExceeded, match=r"has 524,288 of 524,288, its share .* more than --session-share 0.5"):
        hog.session.handles.add(2, room(1))
    neighbour.session.handles.add(1, room(HALF))
    hog.free([1])
    hog.session.handles.add(2, room(HALF))


def test_views_of_a_tensor_take_nothing_of_a_share(state: WorkerState) -> None:
    session = WorkerInProcess(state=state).session
    session.handles.add(1, room(HALF))
    session.handles.add(2, session.handles.tensor(1)[3:])
    session.handles.drop(1)
    with pytest.raises(QuotaExceeded, match="its share"):
        session.handles.add(3, room(1))
    session.handles.drop(2)
    session.handles.add(3, room(HALF))


def test_uploads_and_tensors_have_one_share_where_they_have_one_memory(state: WorkerState) -> None:
    session = WorkerInProcess(state=state).session
    session.staging.begin(1, HALF - 10)
    session.handles.add(1, room(10))
    with pytest.raises(QuotaExceeded, match="its share"):
        session.handles.add(2, room(1))
    session.staging.abort(1)
    with pytest.raises(QuotaExceeded, match="its share"):
        session.staging.begin(2, HALF)
    session.handles.drop(1)
    session.staging.begin(2, HALF)


def store(worker: WorkerInProcess) -> bytes:
    """Have a weight of half the memory in the worker and return its digest."""
    upload = worker.session.staging.begin(7, HALF)
    upload.view[:] = bytes(HALF)
    upload.arrived(upload.view)
    worker.session.staging.finish(7)
    digest = content_digest(SPEC, bytes(upload.chunk_digests))
    worker.send(m.StoreWeight(digest, SPEC, 7))
    return digest


def test_a_weight_counts_once_in_the_share_of_each_session_that_uses_it(state: WorkerState) -> None:
    first, second = WorkerInProcess(state=state), WorkerInProcess(state=state)
    digest = store(first)
    for worker in (first, second):
        worker.send(m.AdoptWeight(1, digest, SPEC), m.AdoptWeight(2, digest, SPEC))
        worker.check()
        with pytest.raises(QuotaExceeded, match="its share"):
            worker.session.handles.add(3, room(1))
    first.free([1])
    with pytest.raises(QuotaExceeded, match="its share"):
        first.session.handles.add(3, room(1))
    first.free([2])
    first.session.handles.add(3, room(HALF))
    assert state.budget.used == 2 * HALF


def test_by_default_one_session_may_have_everything() -> None:
    session = WorkerInProcess(memory_limit=LIMIT).session
    session.handles.add(1, room(LIMIT))
    assert Staging(session.host_budget).share.limit == LIMIT
