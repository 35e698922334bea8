"""no_grad, inference_mode and autocast around a compiled call do what they do around eager."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.integration.compare import same
from tests.integration.conftest import Compile

GRAD_MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "grad": torch.enable_grad,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


def _model() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3))


@pytest.mark.parametrize("name", GRAD_MODES)
def test_result_equals_eager(name: str, compiled: Compile) -> None:
    model = _model()
    call = compiled(model)
    x = torch.randn(2, 6)
    for _ in range(2):
        with GRAD_MODES[name]():
            actual, expected = call(x), model(x)
        same(actual, expected)
        assert actual.requires_grad == expected.requires_grad


def test_modes_may_change_between_calls(compiled: Compile) -> None:
    model = _model()
    call = compiled(model)
    x = torch.randn(2, 6)
    for name in ("no_grad", "grad", "inference_mode", "autocast", "no_grad", "inference_mode", "grad"):
        with GRAD_MODES[name]():
            actual, expected = call(x), model(x)
        same(actual, expected)
        assert actual.requires_grad == expected.requires_grad, name


def test_mode_inside_the_compiled_function(compiled: Compile) -> None:
    model = _model()

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            frozen = model(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return frozen, model(x)

    actual, expected = compiled(forward)(torch.ones(2, 6)), forward(torch.ones(2, 6))
    same(actual, expected)
    assert [t.requires_grad for t in actual] == [False, True]


def test_training_under_autocast_equals_eager(compiled: Compile) -> None:
    eager = _model()
    remote = copy.deepcopy(eager)
    call = compiled(remote)
    x = torch.randn(4, 6)
    for forward in (eager, call):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = forward(x).float().square().mean()
        loss.backward()
    same({n: p.grad for n, p in remote.named_parameters()}, {n: p.grad for n, p in eager.named_parameters()})


def test_result_of_inference_mode_can_be_used_afterwards(compiled: Compile) -> None:
    model = _model()
    call = compiled(model)
    x = torch.randn(2, 6)
    with torch.inference_mode():
        actual, expected = call(x), model(x)
    same(actual * 2, expected * 2)
    with torch.inference_mode():
        same(call(actual @ torch.ones(3, 6)), model(expected @ torch.ones(3, 6)))


def test_default_dtype_is_that_of_the_call(compiled: Compile) -> None:
    def make(x: Tensor) -> Tensor:
        return torch.ones(3) * 0.1 + x.sum()

    call = compiled(make)
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            same(call(torch.ones(2)), make(torch.ones(2)))
        finally:
            torch.set_default_dtype(torch.float32)
