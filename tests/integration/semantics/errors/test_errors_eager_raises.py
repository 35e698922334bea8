"""What eager refuses raises the same class here, at the latest when the result is read; the next call works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.integration.compare import read, same
from tests.integration.conftest import Compile


@dataclass(frozen=True)
class Case:
    """A function, arguments that eager accepts and arguments that it refuses."""

    function: Callable[..., Any]
    good: tuple[Any, ...]
    bad: tuple[Any, ...]


_TABLE = torch.arange(15.0).view(5, 3)


def _add_even(x: Tensor, number: int) -> Tensor:
    if number % 2:
        raise KeyError(f"{number} is odd")
    return x + number


CASES = {
    "matrix product of shapes that do not fit": Case(
        torch.matmul, (torch.ones(2, 3), torch.ones(3, 4)), (torch.ones(2, 3), torch.ones(5, 4))
    ),
    "addition of shapes that do not fit": Case(
        torch.add, (torch.ones(2, 3), torch.ones(3)), (torch.ones(2, 3), torch.ones(4))
    ),
    "embedding index out of range": Case(
        lambda ids: functional.embedding(ids, _TABLE), (torch.tensor([0, 4]),), (torch.tensor([0, 5]),)
    ),
    "negative embedding index": Case(
        lambda ids: functional.embedding(ids, _TABLE), (torch.tensor([0, 4]),), (torch.tensor([-1, 2]),)
    ),
    "gather index out of range": Case(
        lambda x, i: x.gather(0, i), (torch.ones(3), torch.tensor([2])), (torch.ones(3), torch.tensor([3]))
    ),
    "index out of range": Case(
        lambda x, i: x[i] + 1, (torch.ones(3), torch.tensor([2])), (torch.ones(3), torch.tensor([7]))
    ),
    "index_select out of range": Case(
        lambda x, i: x.index_select(0, i), (torch.ones(3), torch.tensor([2])), (torch.ones(3), torch.tensor([3]))
    ),
    "integer division by zero": Case(
        lambda x, y: x // y, (torch.tensor([7]), torch.tensor([2])), (torch.tensor([7]), torch.tensor([0]))
    ),
    "matrix that is not positive definite": Case(torch.linalg.cholesky, (torch.eye(3),), (-torch.eye(3),)),
    "singular matrix": Case(torch.linalg.inv, (torch.eye(3),), (torch.zeros(3, 3),)),
    "class index out of range in a loss": Case(
        functional.cross_entropy, (torch.randn(2, 3), torch.tensor([0, 2])), (torch.randn(2, 3), torch.tensor([0, 3]))
    ),
    "probabilities below zero": Case(
        lambda p: torch.multinomial(p, 1) * 0, (torch.tensor([0.5, 0.5]),), (torch.tensor([-1.0, 0.5]),)
    ),
    "exception of the user's own": Case(_add_even, (torch.ones(2), 2), (torch.ones(2), 3)),
}


def _eager_class(case: Case) -> type[BaseException]:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - which class is what we want to learn
        case.function(*case.bad)
    return caught.type


@pytest.mark.parametrize("name", CASES)
def test_error_has_the_class_of_eager_and_the_next_call_works(name: str, compiled: Compile) -> None:
    case = CASES[name]
    call = compiled(case.function)
    for _ in range(2):
        same(call(*case.good), case.function(*case.good))
        with pytest.raises(_eager_class(case)):
            read(call(*case.bad))
    same(call(*case.good), case.function(*case.good))


@pytest.mark.parametrize("name", CASES)
def test_error_in_the_very_first_call_has_the_class_of_eager(name: str, compiled: Compile) -> None:
    case = CASES[name]
    call = compiled(case.function)
    with pytest.raises(_eager_class(case)):
        read(call(*case.bad))
    same(call(*case.good), case.function(*case.good))


def test_error_in_one_model_leaves_another_usable(compiled: Compile) -> None:
    embedding, linear = nn.Embedding(5, 3), nn.Linear(3, 2)
    lookup, project = compiled(embedding), compiled(linear)
    with torch.no_grad():
        hidden = lookup(torch.tensor([1, 2]))
        with pytest.raises(IndexError):
            read(lookup(torch.tensor([99, 2])))
        same(project(hidden), linear(embedding(torch.tensor([1, 2]))))


def test_results_made_before_an_error_stay_readable(compiled: Compile) -> None:
    embedding = nn.Embedding(5, 3)
    call = compiled(embedding)
    with torch.no_grad():
        before = call(torch.tensor([3, 1]))
        with pytest.raises(IndexError):
            read(call(torch.tensor([5, 1])))
        same(before, embedding(torch.tensor([3, 1])))


def test_inputs_of_a_failed_call_are_not_half_written(compiled: Compile) -> None:
    def lookup_then_write(x: Tensor, ids: Tensor) -> Tensor:
        found = functional.embedding(ids, _TABLE)
        x.add_(1)
        return found

    x = torch.zeros(2)
    call = compiled(lookup_then_write)
    call(x, torch.tensor([0]))
    with pytest.raises(IndexError):
        read(call(x, torch.tensor([9])))
    assert x.tolist() == [1.0, 1.0]
