"""What members of a result share with it, return and print, beyond what native access needs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.integration.compare import same
from tests.integration.conftest import Compile


class Labelled(Tensor):
    """A subclass of a user's own."""


PARTS: dict[str, Callable[[Tensor], tuple[Tensor, ...]]] = {
    "split": lambda y: y.split(1),
    "split_with_sizes": lambda y: y.split_with_sizes([1, 2]),
    "chunk": lambda y: y.chunk(2),
    "unbind": lambda y: y.unbind(),
    "iteration": lambda y: tuple(y),
    "unsafe_split": lambda y: y.unsafe_split(1),
    "unsafe_split_with_sizes": lambda y: y.unsafe_split_with_sizes([1, 2]),
    "unsafe_chunk": lambda y: y.unsafe_chunk(2),
}


@pytest.fixture
def make(compiled: Compile) -> Callable[[Tensor], Tensor]:
    """A compiled function whose result is its argument's values."""
    return compiled(lambda x: x.clone())


def _input() -> Tensor:
    return torch.linspace(-1, 1, 12).view(3, 4)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_writes_into_parts_are_seen_after_all_was_read(make: Callable[[Tensor], Tensor], mode: type) -> None:
    with mode():
        for name, take in PARTS.items():
            actual, expected = make(_input()), _input()
            seen: list[list[object]] = []
            for tensor in (actual, expected):
                parts = take(tensor)
                steps = [tensor.tolist(), tensor.tolist()]
                for part in parts:
                    part.mul_(2)
                    steps += [tensor.tolist(), tensor.tolist(), [each.tolist() for each in parts]]
                tensor.add_(1)
                seen.append([*steps, [part.tolist() for part in parts]])
            assert seen[0] == seen[1], name


def test_zeros_without_memory_are_sent_as_zeros(make: Callable[[Tensor], Tensor]) -> None:
    zeros = torch._efficientzerotensor((3, 4))
    same(torch.ones(3, 4) * make(zeros), torch.zeros(3, 4))
    same(make(_input()).maximum(zeros.expand(2, 3, 4)), _input().maximum(torch.zeros(2, 3, 4)))
    source = _input().requires_grad_()
    make(source).sgn().sum().backward()  # whose gradient autograd makes so
    same(source.grad, torch.zeros(3, 4))


def test_a_subclass_shares_memory_and_gradient(make: Callable[[Tensor], Tensor]) -> None:
    found = []
    for function in (make, torch.clone):
        source = _input().requires_grad_()
        result = function(source)
        labelled = result.as_subclass(Labelled)
        assert type(labelled) is Labelled
        labelled.mul_(3)
        values = result.tolist()
        (result * result).sum().backward()
        found.append((values, source.grad))
    same(found[0], found[1])


def test_what_is_made_in_inference_mode_stays_so_when_its_memory_comes_here(make: Callable[[Tensor], Tensor]) -> None:
    with torch.inference_mode():
        result = make(_input())
        assert result.as_subclass(Labelled).is_inference()
        assert result.resize_(4, 3)[:2].is_inference()
        whole = make(_input())
        assert whole.conj_physical() is whole
        assert whole.real is whole


def test_several_elements_are_no_number(make: Callable[[Tensor], Tensor]) -> None:
    result = make(_input())
    for convert in (float, int, complex):
        with pytest.raises(ValueError, match="only one element tensors"):
            convert(result)  # type: ignore[operator]  # one of three
        assert convert(make(_input()).sum()) == convert(_input().sum())  # type: ignore[operator]


def test_a_result_prints_what_made_it(make: Callable[[Tensor], Tensor]) -> None:
    source = _input().requires_grad_()
    result = make(source)
    plain = repr(source.clone())
    assert repr(result).split() == plain.replace("CloneBackward0", "CompiledFunctionBackward").split()
    assert repr(result * 2) == repr(source.clone() * 2)
    assert f"{result.sum() * 2:.2f}" == f"{source.sum() * 2:.2f}"


def test_a_function_that_asks_no_method_for_the_memory_raises(make: Callable[[Tensor], Tensor]) -> None:
    result = make(_input())
    with pytest.raises(RuntimeError, match="data pointer"):
        torch.utils.dlpack.to_dlpack(result)
    same(torch.from_dlpack(result), _input())
