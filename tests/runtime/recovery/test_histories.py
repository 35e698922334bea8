"""Random histories of writes, views, branches and frees, with workers killed under them, beside plain torch."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dynamo_genie.runtime.session.session import Handle, Session
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.runtime.wire.limits import MAX_INLINE_NBYTES
from tests.in_process import Workers

HISTORIES = 504
LENGTH = 30


def program(*nodes: p.Node, inputs: int, outputs: tuple[int, ...], mutated: tuple[int, ...] = ()) -> p.Program:
    """Return a program whose outputs are values by their numbers."""
    refs = tuple(p.Ref(value) for value in outputs)
    return p.Program(p.PROGRAM_VERSION, (p.TensorInput(),) * inputs, (), nodes, refs, mutated)


a, b = p.Ref(0), p.Ref(1)
ADD = program(p.Node("aten.add.Tensor", (a, b)), inputs=2, outputs=(2,))
ADD_IN_PLACE = program(p.Node("aten.add_.Tensor", (a, b)), inputs=2, outputs=(), mutated=(0,))
TRANSPOSE = program(p.Node("aten.t.default", (a,)), inputs=1, outputs=(1,))
FIRST_ROW = program(p.Node("aten.select.int", (a, 0, 0)), inputs=1, outputs=(1,))
FILL_ROW = program(
    p.Node("aten.select.int", (a, 0, 1)),
    p.Node("aten.fill_.Scalar", (p.Ref(1), 7)),
    inputs=1,
    outputs=(1,),
    mutated=(0,),
)
"""Writes a row of its input, and returns the row, a view."""
TWO_VIEWS = program(p.Node("aten.mul.Tensor", (a, a)), p.Node("aten.t.default", (p.Ref(1),)), inputs=1, outputs=(1, 2))
"""Returns a new tensor twice: as it is, and transposed."""
DRAW = p.Program(
    p.PROGRAM_VERSION, (p.TensorInput(),), (), (p.Node("aten.bernoulli.p", (a, 0.5)),), (p.Ref(1),), random=True
)


class History:
    """A session and plain torch, told the same; `tensors` pairs what each of them has."""

    def __init__(self, seed: int, workers: Workers | None = None) -> None:
        self.random = random.Random(seed)
        self.workers = workers or Workers()
        self.session: Session = self.workers.session()
        self.generator = torch.Generator().manual_seed(seed)
        self.tensors: list[tuple[Handle, Tensor]] = []

    def call(self, which: p.Program, *inputs: Handle) -> list[Handle]:
        session = self.session
        with session.lock:
            encoded = p.encode_program(which)
            number = session.register(p.program_digest(encoded), encoded, (None,) * len(which.nodes))
            results = [session.new_handle() for _ in which.outputs]
            state = self.generator.get_state().numpy().tobytes() if which.random else b""
            request = session.request_id() if state else 0
            ids = tuple(handle.id for handle in inputs)
            session.post(m.Call(number, 0, ids, tuple(handle.id for handle in results), request, state))
            if request:
                reply = session.wait(request)
                assert isinstance(reply, m.RngAdvanced)
                self.generator.set_state(torch.frombuffer(bytearray(reply.rng), dtype=torch.uint8))
        return results

    def pick(self, of: Callable[[Tensor], bool] = lambda tensor: True) -> tuple[Handle, Tensor]:
        return self.random.choice([each for each in self.tensors if of(each[1])])

    def matrix(self) -> tuple[Handle, Tensor]:
        return self.pick(lambda tensor: tensor.dim() == 2 and tensor.shape == (3, 3))

    def put(self, size: int = 3) -> None:
        value = torch.randn(size, size, generator=self.generator)
        self.tensors.append((self.session.put(value), value.clone()))

    def put_large(self) -> None:
        self.put(int((MAX_INLINE_NBYTES // 4) ** 0.5) + 2)

    def add(self) -> None:
        (one, x), (two, y) = self.matrix(), self.matrix()
        self.tensors.append((self.call(ADD, one, two)[0], x + y))

    def add_in_place(self) -> None:
        (one, x), (two, y) = self.matrix(), self.matrix()
        if x.untyped_storage()._cdata == y.untyped_storage()._cdata and x.stride() != y.stride():
            return  # torch refuses what overlaps like this
        self.call(ADD_IN_PLACE, one, two)
        x.add_(y)

    def transpose(self) -> None:
        one, x = self.pick(lambda tensor: tensor.dim() == 2)
        self.tensors.append((self.call(TRANSPOSE, one)[0], x.t()))

    def first_row(self) -> None:
        one, x = self.pick(lambda tensor: tensor.dim() == 2)
        self.tensors.append((self.call(FIRST_ROW, one)[0], x.select(0, 0)))

    def fill_row(self) -> None:
        one, x = self.pick(lambda tensor: tensor.dim() == 2)
        self.tensors.append((self.call(FILL_ROW, one)[0], x.select(0, 1).fill_(7)))

    def two_views(self) -> None:
        one, x = self.matrix()
        square = x * x
        self.tensors += zip(self.call(TWO_VIEWS, one), (square, square.t()), strict=True)

    def draw(self) -> None:
        one, x = self.matrix()
        before = self.generator.get_state()
        result = self.call(DRAW, one)[0]
        after = self.generator.get_state()
        self.generator.set_state(before)
        self.tensors.append((result, torch.bernoulli(x, 0.5, generator=self.generator)))
        assert torch.equal(self.generator.get_state(), after)

    def free(self) -> None:
        if len(self.tensors) > 3:
            del self.tensors[self.random.randrange(len(self.tensors))]
        if not any(tensor.shape == (3, 3) for _, tensor in self.tensors):
            self.put()

    def read(self) -> None:
        self.compare([self.pick()])

    def kill(self) -> None:
        self.workers.kill()

    def compare(self, pairs: list[tuple[Handle, Tensor]]) -> None:
        found = self.session.fetch([handle.id for handle, _ in pairs], ["output"] * len(pairs))
        for value, (_, expected) in zip(found, pairs, strict=True):
            assert torch.equal(value, expected)

    STEPS = (
        (put, 1), (put_large, 1), (add, 4), (add_in_place, 5), (transpose, 2), (first_row, 2), (fill_row, 2),
        (two_views, 2), (draw, 1), (free, 5), (read, 3), (kill, 2),
    )  # fmt: skip

    def run(self, length: int) -> None:
        steps, weights = zip(*self.STEPS, strict=True)
        for _ in range(3):
            self.put()
        for step in self.random.choices(steps, weights, k=length):
            step(self)
        self.compare(self.tensors)
        self.kill()
        self.compare(self.tensors)
        self.session.flush()
        assert self.session.live_handles == len(self.workers.alive.session.handles) == len(self.tensors)
        assert self.session.recovery is not None
        assert self.session.recovery.count > 0
        self.session.close()
        self.workers.alive.close()


@pytest.mark.parametrize("part", range(6))
def test_what_is_alive_has_the_same_bits_after_any_number_of_deaths(part: int) -> None:
    for seed in range(part, HISTORIES, 6):
        History(seed).run(LENGTH)
