"""A graph may return numbers that only the data tells: the program gets plain numbers, as from eager PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.integration.semantics.operators.reference import assert_like_aot_eager, outcome

X = torch.tensor([0.5, -1.0, 2.0])


@pytest.fixture(autouse=True)
def captured_numbers() -> Iterator[None]:
    with torch._dynamo.config.patch(capture_scalar_outputs=True, capture_dynamic_output_shape_ops=True):
        yield


def numbers(x: Tensor) -> tuple[Any, ...]:
    count = (x > 0).sum().item()
    torch._check(count >= 0)
    return count, x + count, x.sum().item(), (x > 0).any().item(), x.size(0)


def sizes(x: Tensor) -> tuple[Any, ...]:
    positive = x[x > 0]
    return x.nonzero(), x.nonzero().size(0), positive * 2, positive.size(0) + 1, torch.unique(x > 0).numel(), x.size(0)


def test_numbers_and_sizes_equal_aot_eager(backend: Any) -> None:
    assert_like_aot_eager(backend, numbers, X)
    assert_like_aot_eager(backend, sizes, X)
    results = outcome(backend, numbers, (X,), grad=False, calls=1)[0][0]
    assert [type(it) for it in results] == [int, Tensor, float, bool, int]
    assert (results[0], results[2:]) == (2, (1.5, True, 3))


def test_a_backward_uses_a_number_that_the_forward_found(backend: Any) -> None:
    def scaled(x: Tensor) -> tuple[Tensor, int]:
        count = (x > 0).sum().item()
        torch._check(count >= 0)
        return (x.sin() * count).sum(), count

    assert_like_aot_eager(backend, scaled, X, grad=True)


def test_a_graph_in_this_process_returns_numbers_too(backend_name: str) -> None:
    call = torch.compile(numbers, backend=backend_name, options={"mode": "local"} if backend_name == "genie" else None)
    with torch.no_grad():
        found = call(X)
    assert (found[0], found[2], found[3], found[4]) == (2, 1.5, True, 3)
