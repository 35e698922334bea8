"""Leaves that live here, with gradients that came out of operators on results: they enter compiled code too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynamo_genie.tensor.remote_tensor import RemoteTensor
from tests.integration.compare import same


def with_remote_gradients(backend: Any, step: Callable[..., Any]) -> tuple[Any, set[type]]:
    """Trains a scale and a bias that eager operators use beside a compiled model; `step` gets both at each turn."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model, scale, bias = nn.Linear(4, 3), nn.Parameter(torch.ones(3)), torch.zeros(3, requires_grad=True)
    compiled = torch.compile(lambda x: model(x).tanh(), backend=backend)
    seen, kinds = [], set()
    for turn in range(3):
        (compiled(torch.full((2, 4), turn + 1.0)) * scale + bias).sum().backward()
        kinds.add(type(scale.grad))
        seen.append((step(scale, bias), scale.detach().clone(), bias.detach().clone()))
    return seen, kinds


def both(backend: Any, make_step: Callable[[Any], Callable[..., Any]]) -> None:
    expected, _ = with_remote_gradients("aot_eager", make_step("aot_eager"))
    actual, kinds = with_remote_gradients(backend, make_step(backend))
    same(actual, expected)
    assert kinds == {RemoteTensor}


def test_a_compiled_function_uses_them_and_adds_to_their_gradients(backend: Any) -> None:
    def make_step(backend: Any) -> Callable[..., Any]:
        @torch.compile(backend=backend)
        def loss(scale: Tensor, bias: Tensor, x: Tensor) -> Tensor:
            return (x * scale + bias).pow(2).sum()

        def step(scale: Tensor, bias: Tensor) -> Any:
            value = loss(scale, bias, torch.arange(3.0))
            value.backward()
            return value, scale.grad, bias.grad

        return step

    both(backend, make_step)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop])
def test_a_compiled_optimizer_steps_them(optimizer: Any, backend: Any) -> None:
    def make_step(backend: Any) -> Callable[..., Any]:
        made: list[Any] = []

        def step(scale: Tensor, bias: Tensor) -> None:
            if not made:
                made.append(optimizer([scale, bias], lr=0.1))
                made.append(torch.compile(made[0].step, backend=backend))
            made[1]()
            made[0].zero_grad()

        return step

    both(backend, make_step)


def test_a_compiled_function_reads_a_gradient(backend: Any) -> None:
    def make_step(backend: Any) -> Callable[..., Any]:
        return torch.compile(lambda scale, bias: scale.grad.norm() + (bias.grad * bias).sum(), backend=backend)

    both(backend, make_step)
