"""A failed command spoils what it should have made or written, and nothing else."""

from __future__ import annotations

import struct

import pytest
import torch

from dynamo_genie.remote_daemon.memory.host_pool import TensorLayout
from dynamo_genie.remote_daemon.memory.layout_overlap import MAX_COMPARED_NBYTES, layouts_overlap
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.runtime.wire.limits import MAX_LATE
from dynamo_genie.runtime.wire.tensor import InlineTensor, TensorSpec
from tests.remote_daemon.worker_in_process import WorkerInProcess

ADD_INTO = p.Program(
    p.PROGRAM_VERSION,
    (p.TensorInput(), p.TensorInput()),
    (),
    (p.Node("aten.add_.Tensor", (p.Ref(0), p.Ref(1))), p.Node("aten.mul.Scalar", (p.Ref(0), 2))),
    (p.Ref(3),),
    mutated_inputs=(0,),
)
PRODUCT = p.Program(
    p.PROGRAM_VERSION,
    (p.TensorInput(), p.TensorInput()),
    (),
    (p.Node("aten.mm.default", (p.Ref(0), p.Ref(1))),),
    (p.Ref(2),),
)
DRAW_AND_FAIL = p.Program(
    p.PROGRAM_VERSION,
    (p.TensorInput(),),
    (),
    (p.Node("aten.bernoulli.p", (p.Ref(0), 0.5)), p.Node("aten.mm.default", (p.Ref(0), p.Ref(1)))),
    (p.Ref(2),),
    random=True,
)


class Worker(WorkerInProcess):
    """Calls whose failures are looked for one by one."""

    def start(self, program: p.Program, *inputs: int, binding: int = 0) -> int:
        self._last += 1
        self.send(m.Call(self._number(program), binding, inputs, (self._last,)))
        return self._last

    def fetch(self, *handles: int) -> list[torch.Tensor | m.ErrorInfo]:
        reply = self.send(m.Fetch(9, handles))[-1]
        assert isinstance(reply, m.Fetched)
        return [
            found if isinstance(found, m.ErrorInfo) else torch.frombuffer(bytearray(found.data), dtype=torch.float32)
            for found in reply.tensors
        ]

    def spoiled(self, *handles: int) -> list[bool]:
        return [isinstance(found, m.ErrorInfo) for found in self.fetch(*handles)]


@pytest.fixture
def worker() -> Worker:
    return Worker()


def test_what_a_failed_call_would_have_made_or_written_fails_and_its_inputs_do_not(worker: Worker) -> None:
    x, y = worker.put(torch.ones(2)), worker.put(torch.ones(3))
    result = worker.start(ADD_INTO, x, y)
    assert worker.spoiled(x, y, result) == [True, False, True]
    follows = worker.start(ADD_INTO, y, result)
    assert worker.spoiled(follows, y) == [True, True], "what would have been written is not what is there"
    [first, again] = worker.fetch(result, follows)
    assert isinstance(first, m.ErrorInfo)
    assert isinstance(again, m.ErrorInfo)
    assert (first.number, first.call, again.number, again.traceback) == (1, 1, 1, "")


def test_views_fail_where_they_show_what_was_to_be_written(worker: Worker) -> None:
    base = torch.zeros(4, 2)
    worker.session.handles.add(50, base)
    for handle, view in ((51, base[:2]), (52, base[2:]), (53, base[:, 0]), (54, base[1:3])):
        worker.session.handles.add(handle, view)
    worker.start(ADD_INTO, 51, worker.put(torch.ones(7)))
    assert worker.spoiled(50, 51, 52, 53, 54) == [True, True, False, True, True]
    assert worker.budget.used > 0
    worker.free([50, 51, 52, 53, 54])
    assert worker.session.handles.resident_nbytes == 28


def test_a_call_that_names_nothing_it_could_run_with_spoils_what_it_writes(worker: Worker) -> None:
    x = worker.put(torch.ones(2))
    worker.start(ADD_INTO, x, 999)
    assert worker.spoiled(x) == [True]


def test_a_program_that_was_refused_spoils_what_it_would_have_written(worker: Worker) -> None:
    unknown = p.Program(
        p.PROGRAM_VERSION, (p.TensorInput(), p.TensorInput()), (), (p.Node("aten.nothing", (p.Ref(0),)),), (p.Ref(2),),
        mutated_inputs=(1,),
    )  # fmt: skip
    unreadable, other = p.encode_program(unknown), p.encode_program(PRODUCT)
    x, y, z = (worker.put(torch.ones(2)) for _ in range(3))
    worker.send(m.RegisterProgram(80, p.program_digest(unreadable), unreadable))
    worker.send(m.Call(80, 0, (x, y), (90,)))
    assert worker.spoiled(x, y, 90) == [True, True, True], "nobody can tell what it would have written"
    worker.send(m.RegisterProgram(81, b"d" * 32, other))
    worker.send(m.Call(81, 0, (z, z), (91,)))
    assert worker.spoiled(z, 91) == [False, True]


def test_calls_through_a_binding_that_failed_fail_until_it_is_made_again(worker: Worker) -> None:
    weight, x, y = worker.put(torch.ones(2)), worker.put(torch.ones(2)), worker.put(torch.ones(2))
    number = worker._number(ADD_INTO)
    worker.send(m.BindWeights(5, number, (1,), (weight,)))
    assert worker.spoiled(worker.start(ADD_INTO, x, binding=5)) == [False]
    news, done = worker.send(m.BindWeights(5, number, (1,), (999,)), m.Sync(1))
    assert isinstance(news, m.LateFailures)
    assert [(e.operator, e.call) for e in news.errors] == [("BindWeights", 2)]
    assert done == m.Done(1)
    result = worker.start(ADD_INTO, x, binding=5)
    assert worker.spoiled(result, x, y, weight) == [True, True, False, False]
    worker.send(m.BindWeights(5, number, (1,), (weight,)))
    assert worker.spoiled(worker.start(ADD_INTO, y, binding=5), y) == [False, False]


def test_a_call_that_fails_after_it_drew_tells_where_the_generator_is(worker: Worker) -> None:
    x, bad = worker.put(torch.ones(3)), worker.put(torch.ones(3))
    number = worker._number(DRAW_AND_FAIL)
    before = torch.default_generator.get_state()
    state = before.numpy().tobytes()
    torch.rand(3)
    torch.default_generator.set_state(before)
    torch.ones(3).bernoulli(0.5)
    after = torch.default_generator.get_state()
    [failed] = worker.send(m.Call(number, 0, (x,), (90,), 4, state))
    assert isinstance(failed, m.Failed)
    assert failed.rng == after.numpy().tobytes()
    worker.start(PRODUCT, x, bad)
    poisoned = worker._last
    *_, refused = worker.send(m.Call(number, 0, (poisoned,), (91,), 5, state))
    assert isinstance(refused, m.Failed)
    assert (refused.rng, refused.error.operator) == (b"", "aten.mm.default")


def test_failures_without_an_answer_are_told_once_before_the_next_answer(worker: Worker) -> None:
    x = worker.put(torch.ones(2))
    for _ in range(MAX_LATE + 3):
        worker.start(PRODUCT, x, x)
    news, done = worker.send(m.Sync(1))
    assert isinstance(news, m.LateFailures)
    assert [e.number for e in news.errors] == list(range(1, MAX_LATE + 1))
    assert [e.call for e in news.errors] == list(range(1, MAX_LATE + 1))
    assert news.omitted == 3
    assert done == m.Done(1)
    assert worker.send(m.Sync(2)) == [m.Done(2)]
    [failed] = worker.send(m.Call(worker._number(PRODUCT), 0, (x, x), (99,), 3))
    assert isinstance(failed, m.Failed), "one that is answered is told by its answer"
    assert worker.send(m.Sync(4)) == [m.Done(4)]


def test_inline_arguments_and_numbers_are_nothing_to_spoil(worker: Worker) -> None:
    spec = TensorSpec("float32", (2,), (1,))
    worker.send(m.Call(worker._number(ADD_INTO), 0, (InlineTensor(spec, struct.pack("2f", 1, 2)), 999), (70,)))
    assert worker.spoiled(70) == [True]


# --- which elements ------------------------------------------------------------------------------------------


def overlap(one: torch.Tensor, other: torch.Tensor) -> bool:
    found = layouts_overlap(TensorLayout.of(one), TensorLayout.of(other))
    assert found == layouts_overlap(TensorLayout.of(other), TensorLayout.of(one))
    return found


def test_tensors_overlap_where_they_have_an_element_in_common() -> None:
    base = torch.zeros(6, 4)
    assert overlap(base, base[2, 1])
    assert overlap(base[:, 1], base[3])
    assert not overlap(base[:, 1], base[:, 2])
    assert not overlap(base[:3], base[3:])
    assert not overlap(base[::2], base[1::2])
    assert not overlap(base[:0], base)
    assert overlap(base[0].expand(3, 4), base[0, 3])
    halves = base.view(torch.int16)
    assert overlap(halves[0, 1:2], base[0, 0])
    assert not overlap(halves[0, 2:3], base[0, 0])


def test_of_very_large_tensors_the_ends_are_compared() -> None:
    large = torch.empty(2, MAX_COMPARED_NBYTES, dtype=torch.uint8)
    assert overlap(large.t()[:, 0:1], large)
    assert layouts_overlap(TensorLayout.of(large.view(-1)[::2]), TensorLayout.of(large.view(-1)[1::2]))
    assert not overlap(large[0], large[1])
