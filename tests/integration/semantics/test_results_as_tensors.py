"""A result of a compiled call is a tensor like any other, wherever its data are."""

from __future__ import annotations

import copy
import gc
import io
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import dynamo_genie
from tests.integration.compare import same
from tests.integration.conftest import Compile


def _compute(x: Tensor) -> Tensor:
    return x * 2 + 1


def _input() -> Tensor:
    return torch.linspace(-1, 1, 12).view(3, 4)


@pytest.fixture
def results(compiled: Compile) -> tuple[Tensor, Tensor]:
    """The same value twice: from the compiled function and from eager."""
    return compiled(_compute)(_input()), _compute(_input())


USES: dict[str, Callable[[Tensor], Any]] = {
    "isinstance": lambda y: isinstance(y, Tensor),
    "shape": lambda y: (tuple(y.shape), y.dim(), y.numel(), len(y), y.stride(), y.is_contiguous()),
    "device and dtype": lambda y: (y.device, y.dtype, y.layout, y.requires_grad, y.is_leaf, y.is_floating_point()),
    "numpy": lambda y: y.numpy().tolist(),
    "numpy asarray": lambda y: np.asarray(y).sum().item(),
    "numpy function": lambda y: float(np.max(y.numpy())),
    "tolist": lambda y: y.tolist(),
    "str": str,
    "format of a scalar": lambda y: f"{y[0, 1]:.4f} {y.sum().item():.3e}",
    "item": lambda y: y[1, 2].item(),
    "float and int": lambda y: (float(y[0, 0]), int(y[2, 3])),
    "bool": lambda y: (bool(y[0, 0] > 0), bool((y == y).all())),
    "if": lambda y: "yes" if y.max() > 1 else "no",
    "iteration": list,
    "unpacking": lambda y: operator.itemgetter(0, 1, 2)([*y]),
    "enumerate and zip": lambda y: [
        (i, row.sum(), other) for (i, row), other in zip(enumerate(y), y.tolist(), strict=True)
    ],
    "index": lambda y: (y[0], y[-1, 2], y[1:, ::2], y[None], y[..., 1], y[:, [0, 2]]),
    "index by a tensor": lambda y: y[torch.tensor([2, 0])],
    "boolean mask": lambda y: y[y > 0.5],
    "local boolean mask": lambda y: y[torch.tensor([True, False, True])],
    "nonzero": lambda y: (y > 0).nonzero(),
    "nonzero as tuple": lambda y: (y > 0).nonzero(as_tuple=True),
    "unique": lambda y: (y > 0).unique(return_counts=True),
    "where": lambda y: torch.where(y > 0, y, 0.0),
    "views": lambda y: (y.view(4, 3), y.t(), y.reshape(-1), y.expand(2, 3, 4), y.unsqueeze(1), y.flatten(), y.mT),
    "split": lambda y: (y.chunk(2), y.split(3, dim=1), y.unbind(1)),
    "arithmetic": lambda y: (y + 1, 1 - y, y * y, y / 3, -y, y**2, y @ y.t(), y % 2, abs(y)),
    "with a local tensor": lambda y: (y + torch.ones(4), torch.ones(3, 4) - y, torch.ones(2, 3) @ y),
    "comparison": lambda y: (y > 0, y == y, torch.equal(y, y.clone()), torch.allclose(y, y + 0)),
    "reduction": lambda y: (y.sum(), y.mean(0), y.max(1), y.argmax(-1), y.std(), y.cumsum(0), y.norm()),
    "sort": lambda y: (y.sort(descending=True), y.topk(2), y.flatten().argsort()),
    "cat and stack": lambda y: (torch.cat([y, torch.zeros(1, 4)]), torch.stack([y, y])),
    "functional": lambda y: (
        functional.softmax(y, -1),
        functional.linear(y, torch.ones(2, 4)),
        functional.pad(y, (1, 1)),
    ),
    "module": lambda y: nn.LayerNorm(4)(y).detach(),
    "conversion": lambda y: (
        y.to(torch.float64),
        y.half(),
        y.long(),
        y.to("cpu"),
        y.cpu(),
        y.contiguous(),
        y.type(torch.int8),
    ),
    "like": lambda y: (torch.zeros_like(y), y.new_ones(2), torch.full_like(y, 3)),
    "clone and detach": lambda y: (y.clone(), y.detach(), y.data),
    "copy": lambda y: (copy.copy(y), copy.deepcopy(y)),
    "as a key": lambda y: {y: 1}[y],
    "membership": lambda y: (y[0, 0].item() in y, [y].index(y)),
    "einsum": lambda y: torch.einsum("ij,kj->ik", y, y),
    "one-hot of argmax": lambda y: functional.one_hot(y.argmax(-1), 4),
    "dtype view": lambda y: y.view(torch.int32),
    "out of another operator": lambda y: torch.add(y, 1, out=torch.empty(3, 4)),
    "apply": lambda y: torch.vmap(lambda row: row.sum())(y),
}


@pytest.mark.parametrize("name", USES)
def test_use_of_a_result_gives_what_eager_gives(name: str, results: tuple[Tensor, Tensor]) -> None:
    actual, expected = results
    same(USES[name](actual), USES[name](expected))
    same(actual, expected)


WRITES: dict[str, Callable[[Tensor], Any]] = {
    "add_": lambda y: y.add_(1),
    "augmented assignment": lambda y: operator.iadd(y, 2),
    "element": lambda y: operator.setitem(y, (1, 2), 9.0),
    "row from a local tensor": lambda y: operator.setitem(y, 0, torch.arange(4.0)),
    "mask": lambda y: operator.setitem(y, y > 0, -1.0),
    "view": lambda y: y.view(-1)[3:7].zero_(),
    "transposed view": lambda y: y.t()[1].mul_(3),
    "copy_": lambda y: y.copy_(torch.arange(12.0).view(3, 4)),
    "fill_ and zero_": lambda y: (y[0].fill_(4), y[1].zero_()),
    "masked_fill_": lambda y: y.masked_fill_(y < 0, 5.0),
    "index_add_": lambda y: y.index_add_(0, torch.tensor([0, 0]), torch.ones(2, 4)),
    "clamp_": lambda y: y.clamp_(-0.5, 0.5),
    "out": lambda y: torch.mul(torch.ones(3, 4), 7, out=y),
    "detached": lambda y: y.detach().add_(1),
    "data": lambda y: y.data.mul_(2),
}


@pytest.mark.parametrize("name", WRITES)
def test_write_into_a_result_is_seen_as_in_eager(name: str, results: tuple[Tensor, Tensor]) -> None:
    for tensor in results:
        WRITES[name](tensor)
    same(*results)


@pytest.mark.parametrize("name", WRITES)
def test_write_into_a_result_is_seen_in_its_views_and_by_the_next_call(name: str, compiled: Compile) -> None:
    call = compiled(_compute)
    outcomes = []
    for way in (_compute, call):
        y = way(_input())
        row, column = y[1], y.t()[2]
        WRITES[name](y)
        outcomes.append((y, row, column, way(y), way(row)))
    same(outcomes[1], outcomes[0])


def test_write_into_a_local_tensor_from_a_result(results: tuple[Tensor, Tensor]) -> None:
    targets = [torch.zeros(3, 4), torch.zeros(3, 4)]
    for target, result in zip(targets, results, strict=True):
        target[0] = result[0]
        target[1:].copy_(result[1:])
        target += result
    same(*targets)


def test_saved_and_loaded_result_is_a_plain_tensor(results: tuple[Tensor, Tensor]) -> None:
    file = io.BytesIO()
    torch.save({"y": results[0]}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)["y"]
    assert type(loaded) is Tensor
    same(loaded, results[1])


def test_deepcopy_of_a_result_is_independent(results: tuple[Tensor, Tensor]) -> None:
    actual, expected = results
    duplicate = copy.deepcopy(actual)
    duplicate.add_(1)
    same(actual, expected)
    same(duplicate, expected + 1)


def test_deepcopy_keeps_the_sharing_of_two_views(results: tuple[Tensor, Tensor]) -> None:
    outcomes = []
    for y in results:
        whole, row = copy.deepcopy((y, y[1]))
        whole.add_(1)
        outcomes.append((whole, row))
    same(*outcomes)


def test_clone_is_independent(results: tuple[Tensor, Tensor]) -> None:
    duplicate = results[0].clone()
    results[0].zero_()
    same(duplicate, results[1])


def test_result_goes_into_another_compiled_function_with_a_local_tensor(compiled: Compile) -> None:
    first, second = compiled(_compute), compiled(lambda y, x: y @ x.t())
    for _ in range(2):
        same(second(first(_input()), _input()), _compute(_input()) @ _input().t())


def test_view_of_a_result_goes_into_another_compiled_function(compiled: Compile) -> None:
    first, second = compiled(_compute), compiled(lambda y: y.sum(0) * 2)
    y = _compute(_input())
    for view in (lambda t: t[1:], lambda t: t.t(), lambda t: t[:, ::2], lambda t: t.view(2, 6)):
        same(second(view(first(_input()))), view(y).sum(0) * 2)


def test_result_as_the_weight_of_a_module(compiled: Compile) -> None:
    weight = compiled(_compute)(_input())
    layer = nn.Linear(4, 3, bias=False)
    layer.weight = nn.Parameter(weight)
    expected = nn.Linear(4, 3, bias=False)
    expected.weight = nn.Parameter(_compute(_input()))
    call = compiled(layer)
    for _ in range(2):
        for module, way in ((expected, expected), (layer, call)):
            module.zero_grad()
            way(torch.ones(2, 4)).sum().backward()
        same(layer.weight.grad, expected.weight.grad)


def test_eager_autograd_through_a_result_used_as_a_leaf(results: tuple[Tensor, Tensor]) -> None:
    gradients = []
    for y in results:
        y.requires_grad_()
        (y.sin() * 2).sum().backward()
        gradients.append(y.grad)
    same(*gradients)


def test_eager_operators_after_a_compiled_call_are_differentiated(compiled: Compile) -> None:
    call = compiled(_compute)
    inputs = [_input().requires_grad_() for _ in range(2)]
    for way, x in zip((_compute, call), inputs, strict=True):
        y = way(x)
        (y.exp() * y[0]).sum().backward()
    same(inputs[1].grad, inputs[0].grad)
    with torch.no_grad():
        same(call(_input()).detach(), _compute(_input()))


def test_scalar_result_works_as_a_python_number(compiled: Compile) -> None:
    actual, expected = compiled(lambda x: x.argmax())(_input()), _input().argmax()
    assert list(range(12))[actual] == list(range(12))[expected]
    assert [0.0] * actual == [0.0] * int(expected)
    assert f"{actual.item():03d}" == f"{expected.item():03d}"


def test_result_outlives_the_function_that_made_it(compiled: Compile) -> None:
    y = compiled(_compute)(_input())
    torch.compiler.reset()
    same(y, _compute(_input()))


def test_models_that_were_dropped_leave_nothing_behind(compiled: Compile) -> None:
    for _ in range(5):
        model = torch.nn.Linear(4, 4)
        with torch.no_grad():
            result = compiled(model)(torch.randn(2, 4))
        assert dynamo_genie.stats()["total"]["live_handles"] == 1
        del model, result
        torch._dynamo.reset()
        gc.collect()
        assert dynamo_genie.stats()["total"]["live_handles"] == 0
