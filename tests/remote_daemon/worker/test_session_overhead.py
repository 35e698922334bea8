"""What a session costs beside its tensors: it counts, it ends, and what nobody names makes way."""

from __future__ import annotations

from dynamo_genie.remote_daemon.memory.memory_budget import FREE_OVERHEAD_NBYTES
from dynamo_genie.remote_daemon.worker.handle_table import BLOCK, HANDLE_NBYTES, MAX_WHOLE_ERRORS
from dynamo_genie.remote_daemon.worker.programs import NODE_NBYTES
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.runtime.wire.tensor import InlineTensor, TensorSpec
from tests.remote_daemon.worker_in_process import WorkerInProcess

ONE = InlineTensor(TensorSpec("uint8", (1,), (1,)), b"x")


def chain(length: int, salt: int = 1) -> p.Program:
    """Return a program of so many additions."""
    nodes = tuple(p.Node("aten.add.Tensor", (p.Ref(i), salt)) for i in range(length))
    return p.Program(p.PROGRAM_VERSION, (p.TensorInput(),), (), nodes, (p.Ref(length),))


def register(worker: WorkerInProcess, number: int, program: p.Program) -> None:
    encoded = p.encode_program(program)
    worker.send(m.RegisterProgram(number, p.program_digest(encoded), encoded))


def kinds(worker: WorkerInProcess) -> list[str]:
    *news, _ = worker.send(m.Sync(1))
    return [error.kind for late in news if isinstance(late, m.LateFailures) for error in late.errors]


def test_handles_are_paid_for_by_the_block_and_paid_back_when_they_are_freed() -> None:
    worker = WorkerInProcess()
    worker.send(*(m.Put(handle, ONE) for handle in range(1, 10 * BLOCK + 1)))
    assert worker.budget.overhead == 10 * BLOCK * HANDLE_NBYTES
    assert worker.budget.used == 10 * BLOCK
    worker.free(range(1, 9 * BLOCK + 1))
    assert worker.budget.overhead == 2 * BLOCK * HANDLE_NBYTES
    worker.session.close()
    assert worker.budget.overhead == 0


def test_a_session_names_no_more_than_its_memory_pays_for() -> None:
    limit = 4 * BLOCK * HANDLE_NBYTES
    paid = (FREE_OVERHEAD_NBYTES + limit) // (BLOCK * HANDLE_NBYTES) * BLOCK
    worker = WorkerInProcess(memory_limit=limit)
    worker.send(*(m.Put(handle, ONE) for handle in range(1, paid + 2 * BLOCK)))
    assert set(kinds(worker)) == {"QuotaExceeded"}
    assert paid - BLOCK <= len(worker.session.handles) <= paid


def test_many_handles_without_a_tensor_keep_few_tracebacks() -> None:
    worker = WorkerInProcess()
    for handle in range(1, MAX_WHOLE_ERRORS + 11):
        worker.send(m.Call(9, 0, (), (handle,)))
    *_, fetched = worker.send(m.Fetch(1, (MAX_WHOLE_ERRORS, MAX_WHOLE_ERRORS + 10)))
    assert isinstance(fetched, m.Fetched)
    whole, short = fetched.tensors
    assert isinstance(whole, m.ErrorInfo)
    assert isinstance(short, m.ErrorInfo)
    assert whole.traceback
    assert not short.traceback
    assert short.message == "program 9 is not registered"


def test_programs_that_nobody_names_make_way_and_the_others_stay() -> None:
    size = FREE_OVERHEAD_NBYTES // NODE_NBYTES // 4
    worker = WorkerInProcess(memory_limit=1 << 20)
    for salt in range(3):
        register(worker, 1, chain(size, salt))  # each takes the number of the one before
    assert len(worker.programs) == 3
    register(worker, 2, chain(2 * size, 9))
    assert kinds(worker) == []
    assert len(worker.programs) == 3
    register(worker, 3, chain(3 * size, 8))
    assert kinds(worker) == ["QuotaExceeded"]
    worker.send(m.Put(1, ONE), m.Call(1, 0, (1,), (2,)), m.Call(2, 0, (1,), (3,)), m.Call(3, 0, (1,), (4,)))
    *_, fetched = worker.send(m.Fetch(1, (2, 3, 4)))
    assert isinstance(fetched, m.Fetched)
    assert [isinstance(found, m.ErrorInfo) for found in fetched.tensors] == [False, False, True]
    worker.session.close()
    register_again = WorkerInProcess(state=worker.state)
    register(register_again, 1, chain(3 * size, 8))
    assert kinds(register_again) == []


def test_bindings_count_and_a_number_that_is_bound_again_counts_once() -> None:
    worker = WorkerInProcess()
    register(worker, 1, chain(1))
    worker.send(m.Put(1, ONE))
    before = worker.budget.overhead
    worker.send(m.BindWeights(5, 1, (0,), (1,)))
    once = worker.budget.overhead - before
    assert once > 0
    worker.send(m.BindWeights(5, 1, (0,), (1,)))
    assert worker.budget.overhead - before == once
    worker.send(m.BindWeights(6, 1, (0,), (1,)))
    assert worker.budget.overhead - before == 2 * once


def test_what_was_uploaded_and_not_named_counts_until_it_is_given_up() -> None:
    worker = WorkerInProcess()
    for upload in range(1, 4):
        worker.session.staging.begin(upload, 0)
    counted = worker.budget.overhead
    assert counted > 0
    worker.session.staging.close()
    assert worker.budget.overhead == 0
