"""Caches in a worker and in eager PyTorch, side by side, and random histories of both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from hypothesis import strategies as st
from torch import Tensor

from dynamo_genie.runtime.wire import program as p
from tests.remote_daemon.worker_in_process import WorkerInProcess

CACHE = p.ValueFacts(role="kv_cache")
NOTHING = p.ValueFacts()


def tokens(n: int, *, start: int = 0) -> Tensor:
    """A cache of `n` tokens, no two elements alike: [batch, heads, tokens, head_dim]."""
    return torch.arange(start, start + 2 * 3 * n * 4, dtype=torch.float32).reshape(2, 3, n, 4)


def program(
    *nodes: p.Node, outputs: tuple[p.Argument, ...], rank: int | None = 4, caches: tuple[int, ...] = ()
) -> p.Program:
    """A program of two tensor inputs."""
    inputs = (p.TensorInput(rank=rank), p.TensorInput())
    fact_of = tuple(int(value in caches) for value in range(2 + len(nodes)))
    return p.Program(p.PROGRAM_VERSION, inputs, (), nodes, outputs, facts=(NOTHING, CACHE), fact_of=fact_of)


JOIN = p.Node("aten.cat.default", (p.Items((p.Ref(0), p.Ref(1))), -2))
LAST = p.Node("aten.slice.Tensor", (p.Ref(2), 2, -4, (1 << 63) - 1))
APPEND = program(JOIN, outputs=(p.Ref(2),), caches=(0, 2))
APPEND_SLIDING = program(JOIN, LAST, outputs=(p.Ref(3),), caches=(3,))
ADD_IN_PLACE = program(p.Node("aten.add_.Tensor", (p.Ref(0), p.Ref(1))), outputs=())
READ_AND_WRITE = program(
    p.Node("aten.add_.Tensor", (p.Ref(1), 1)), p.Node("aten.clone.default", (p.Ref(0),)), outputs=(p.Ref(3),)
)
CROP = program(p.Node("aten.slice.Tensor", (p.Ref(0), 2, 0, -1)), outputs=(p.Ref(2),))
TRANSPOSE = program(p.Node("aten.transpose.int", (p.Ref(0), 1, 2)), outputs=(p.Ref(2),))
SELECT = program(p.Node("aten.index_select.default", (p.Ref(0), 0, p.Ref(1))), outputs=(p.Ref(2),))
FLATTEN = program(p.Node("aten.view.default", (p.Ref(0), p.Items((-1,)))), outputs=(p.Ref(2),))
WHOLE_STORAGE = program(
    p.Node("aten.as_strided.default", (p.Ref(0), p.Items((24,)), p.Items((1,)), 0)), outputs=(p.Ref(2),)
)
TOTAL = program(p.Node("aten.sum.default", (p.Ref(0),)), outputs=(p.Ref(2),))


@dataclass
class Both:
    """Every tensor twice: as a handle of a worker, and as eager PyTorch holds it."""

    worker: WorkerInProcess = field(default_factory=WorkerInProcess)
    eager: dict[int, Tensor] = field(default_factory=dict)

    def put(self, tensor: Tensor) -> int:
        handle = self.worker.put(tensor)
        self.eager[handle] = tensor.clone()
        return handle

    def run(self, what: p.Program, eager: Any, *handles: int) -> int:
        made = self.worker.call(what, *handles)
        result = eager(*(self.eager[handle] for handle in handles))
        self.eager.update((handle, result) for handle in made)
        return made[0] if made else 0

    def append(self, past: int, new: int) -> int:
        return self.run(APPEND, lambda x, y: torch.cat([x, y], -2), past, new)

    def slide(self, past: int, new: int) -> int:
        return self.run(APPEND_SLIDING, lambda x, y: torch.cat([x, y], -2)[:, :, -4:], past, new)

    def write(self, target: int, amount: int) -> None:
        self.run(ADD_IN_PLACE, lambda x, y: x.add_(y), target, amount)

    def free(self, handle: int) -> None:
        self.worker.free((handle,))
        del self.eager[handle]

    def check(self) -> None:
        for handle, expected in self.eager.items():
            found = self.worker.value(handle)
            assert torch.equal(found, expected)
            if handle not in self.worker.session.handles.arena_views and expected.numel():
                assert (found.stride(), found.storage_offset()) == (expected.stride(), expected.storage_offset())


History: TypeAlias = list[tuple[str, int, int]]
STEPS = st.tuples(
    st.sampled_from(["append", "append", "slide", "crop", "select", "write", "free", "whole", "total", "both"]),
    st.integers(0, 1 << 16),
    st.integers(0, 1 << 16),
)
HISTORIES = st.lists(STEPS, max_size=25)


def replay(both: Both, history: History) -> Iterator[None]:
    """Do what a history says; hands over after each step."""
    one, order = both.put(torch.ones(1)), both.put(torch.tensor([1, 0]))
    caches = [both.put(tokens(3)), both.put(tokens(5, start=300))]
    for what, which, size in history:
        cache = caches[which % len(caches)]
        if what in ("append", "slide"):
            new = both.put(tokens(size % 3, start=size))
            caches.append((both.append if what == "append" else both.slide)(cache, new))
        elif what == "both":
            caches.append(both.append(cache, caches[size % len(caches)]))
        elif what == "crop" and both.eager[cache].shape[2] > 1:
            caches.append(both.run(CROP, lambda x, y: x[:, :, :-1], cache, one))
        elif what == "select":
            caches.append(both.run(SELECT, lambda x, y: x.index_select(0, y), cache, order))
        elif what == "write":
            both.write(cache, one)
        elif what == "whole" and both.eager[cache].untyped_storage().nbytes() >= 96:
            both.run(WHOLE_STORAGE, lambda x, y: x.as_strided((24,), (1,), 0), cache, one)
        elif what == "total":
            both.run(TOTAL, lambda x, y: x.sum(), cache, one)
        elif what == "free" and len(caches) > 1:
            both.free(caches.pop(which % len(caches)))
        yield
