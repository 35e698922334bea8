"""With `errors="immediate"` each call waits for the daemon and raises its own error, as CUDA_LAUNCH_BLOCKING does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import dynamo_genie
from tests.integration.compare import same
from tests.integration.conftest import Compile

IMMEDIATE = {"errors": "immediate"}
GOOD, BAD = torch.tensor([1]), torch.tensor([9])


def _look_up(ids: Tensor) -> Tensor:
    return functional.embedding(ids, torch.arange(8.0).view(4, 2))


def test_a_compiled_call_raises_its_own_error(compiled: Compile, monkeypatch: pytest.MonkeyPatch) -> None:
    for options in (IMMEDIATE, {}):
        if not options:
            monkeypatch.setenv("GENIE_ERRORS", "immediate")
        call = compiled(_look_up, options=options)
        with pytest.raises(IndexError, match=r"(?s)index out of range.*in aten\.embedding"):
            call(BAD)
        dynamo_genie.synchronize()  # whoever called has been told
        same(call(GOOD), _look_up(GOOD))
        torch._dynamo.reset()


def test_a_late_call_returns_beside_immediate_ones(compiled: Compile) -> None:
    late, immediate = compiled(_look_up), compiled(lambda i: _look_up(i) * 2, options=IMMEDIATE)
    bad = late(BAD)
    same(immediate(GOOD), 2 * _look_up(GOOD))
    with pytest.raises(IndexError):
        immediate(BAD)
    with pytest.raises(IndexError):
        bad.tolist()


def test_an_operator_on_a_result_raises_its_own_error_and_so_do_those_on_what_it_made(compiled: Compile) -> None:
    counts = compiled(_look_up, options=IMMEDIATE)(GOOD)
    index = counts.sum().long() * 10  # two operators later
    for operand in (counts, counts[0], counts.detach() + 1):
        with pytest.raises(IndexError, match="index 50 is out of bounds"):
            operand[index]
    with pytest.raises(RuntimeError, match="index 50 is out of bounds"):
        counts.scatter_(1, index.view(1, 1), 0.0)


def test_a_backward_raises_its_own_error(compiled: Compile) -> None:
    w = torch.ones(4, 2, requires_grad=True)

    def weighed(w: Tensor, order: Tensor) -> Tensor:
        return _Scattered.apply(w, order)

    call = compiled(weighed, options=IMMEDIATE)
    call(w, torch.tensor([0, 1, 2, 3])).sum().backward()
    assert w.grad is not None
    same(w.grad, torch.ones(4, 2))
    result = call(w, torch.tensor([0, 1, 2, 9]))
    with pytest.raises((IndexError, RuntimeError), match="out of"):
        result.sum().backward()


class _Scattered(torch.autograd.Function):
    """Reads its order in the backward only."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, w: Tensor, order: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        return w * 1

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        [order] = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradients[0].index_select(0, order), None


def test_an_immediate_call_costs_one_round_trip_and_a_late_one_none(compiled: Compile) -> None:
    trips = []
    for options in ({}, IMMEDIATE):
        call = compiled(_look_up, options=options)
        call(GOOD)
        dynamo_genie.reset_stats()
        result = call(GOOD)
        result + 1
        trips.append(dynamo_genie.stats()["total"]["round_trips"])
        torch._dynamo.reset()
    assert trips == [0, 2]
