"""Local and remote tensors in the same places: a function is compiled once for all, and again when it must be."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from dynamo_genie.tensor.remote_tensor import RemoteTensor
from dynamo_genie.torch_internals.compile_context import clear_counters, graphs_compiled
from tests.integration.compare import read, same
from tests.integration.conftest import Compile


def combine(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, ...]:
    return (a * b).sin() + c, d - a, (a @ b.t()).tanh() + d.size(0)


def both_kinds(compiled: Compile, *shapes: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    """Pairs of a local tensor and a remote one with the same elements."""
    with torch.no_grad():
        local = [torch.randn(shape) for shape in shapes]
        remote = [compiled(lambda x: x * 1, dynamic=False)(x) for x in local]
    assert all(type(x) is RemoteTensor for x in remote)
    return list(zip(local, remote, strict=True))


def test_any_mixture_of_local_and_remote_arguments_runs_one_compilation(compiled: Compile) -> None:
    run = compiled(combine)
    for first in (0, 1):
        pairs = both_kinds(compiled, *[(4, 8)] * 4)
        expected = combine(*[local for local, _ in pairs])
        torch._dynamo.reset_code(combine.__code__)
        clear_counters()
        for kinds in product((first, 1 - first), repeat=4):
            same(run(*[pair[kind] for pair, kind in zip(pairs, kinds, strict=True)]), expected)
        assert graphs_compiled() == 1


def test_a_mixture_of_kinds_and_sizes_runs_one_more(compiled: Compile) -> None:
    run = compiled(combine)
    compilations = 0
    for rows in (3, 4, 5, 6):
        pairs = both_kinds(compiled, *[(rows, 8)] * 4)
        expected = combine(*[local for local, _ in pairs])
        clear_counters()
        for kinds in ((1, 0, 1, 0), (0, 0, 0, 0), (1, 1, 1, 1), (0, 1, 1, 0)):
            same(run(*[pair[kind] for pair, kind in zip(pairs, kinds, strict=True)]), expected)
        compilations += graphs_compiled()
    assert compilations == 2


def test_what_the_guards_are_for_is_still_seen(compiled: Compile) -> None:
    def scaled(x: Tensor, y: Tensor) -> Tensor:
        return x * (2 if x.dtype == torch.float32 else 3) * (5 if x.requires_grad else 7) * (11 if x is y else 13)

    run = compiled(scaled, dynamic=False)
    [(local, remote), (other, other_remote)] = both_kinds(compiled, (2, 4), (2, 4))
    for x in (local, remote):
        for y in (other, other_remote, x):
            same(run(x, y), scaled(local, local if y is x else other))
    same(run(remote.double(), other), scaled(local.double(), other))
    same(run(remote.t(), other), scaled(local.t(), other))
    for leaf in (local.clone().requires_grad_(), remote.clone().requires_grad_()):
        same(run(leaf, other), scaled(local.clone().requires_grad_(), other))
        run(leaf, other).sum().backward()
        same(leaf.grad, torch.full_like(local, 2 * 5 * 13))
        assert type(leaf.grad) is (RemoteTensor if isinstance(leaf, RemoteTensor) else Tensor)


def test_writes_and_gradients_reach_what_came(compiled: Compile) -> None:
    def update(x: Tensor, y: Tensor) -> Tensor:
        x.add_(y)
        return x * y

    run = compiled(update)
    [(local, remote), (other, other_remote)] = both_kinds(compiled, (2, 4), (2, 4))
    expected = local.clone()
    for x, y in ((local, other), (remote, other), (local, other_remote), (remote, other_remote)):
        before = x.clone()
        same(run(x, y), (before + y) * y)
        same(x, before + y)
    expected = expected + other + other
    same([local, remote], [expected, expected])
    weight = torch.randn(2, 4, requires_grad=True)
    for x in (other, other_remote):
        (run(weight * x, x) * x).sum().backward()
    same(weight.grad, 2 * other**3)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.t(),
    "a slice": lambda x: x[1:, 2:],
    "every other": lambda x: x[::2],
    "expanded": lambda x: x[:1].expand(x.shape),
    "no elements": lambda x: x[:0],
    "a number": lambda x: x[0, 0],
}


def measure(x: Tensor, y: Tensor) -> tuple[Any, ...]:
    grown = torch.cat([x.reshape(-1), y.reshape(-1)[:1]])
    return grown, x * 2 + x.dim() * x.numel() + len(x.shape), y.sum(), x.shape, x.stride()


@pytest.mark.parametrize("dynamic", [None, True, False], ids=str)
@pytest.mark.parametrize("first", [0, 1], ids=["local first", "remote first"])
def test_kinds_cost_no_compilation_in_any_layout(first: int, dynamic: bool | None, compiled: Compile) -> None:
    """At most as many compilations as `aot_eager` needs for the same calls, all of them local there."""
    calls = [
        (LAYOUTS[layout], rows, kinds)
        for layout in LAYOUTS
        for rows, kinds in zip((4, 5, 7, 5), ((first, 0), (1 - first, 1), (first, 1), (1 - first, 0)), strict=True)
    ]
    pairs = {rows: both_kinds(compiled, (rows, 8), (rows, 3)) for rows in (4, 5, 7)}

    def run(program: Callable[..., Any], remote: bool) -> int:
        torch._dynamo.reset()
        clear_counters()
        for view, rows, (a, b) in calls:
            x, y = pairs[rows][0][a * remote], pairs[rows][1][b * remote]
            same(program(view(x), y), measure(view(pairs[rows][0][0]), pairs[rows][1][0]))
        return graphs_compiled()

    with torch._dynamo.config.patch(recompile_limit=100):
        expected = run(torch.compile(measure, backend="aot_eager", dynamic=dynamic), remote=False)
        assert run(compiled(measure, dynamic=dynamic), remote=True) <= expected


def test_a_cache_that_grows_in_either_place_is_compiled_for_twice(compiled: Compile) -> None:
    run = compiled(lambda cache, new: torch.cat([cache, new]))
    grown = expected = torch.randn(1, 4)
    clear_counters()
    for step in range(6):
        new = torch.randn(1, 4)
        grown, expected = run(read(grown) if step % 3 == 2 else grown, new), torch.cat([expected, new])
        same(grown, expected)
    assert graphs_compiled() == 2


def test_an_argument_of_which_only_the_layout_is_used_costs_none_either(compiled: Compile) -> None:
    run = compiled(lambda x, y: y * x.shape[0] + x.stride(0) * x.dim())
    pairs = both_kinds(compiled, (4, 8), (2, 3))
    clear_counters()
    for a, b in product((0, 1), repeat=2):
        same(run(pairs[0][a], pairs[1][b]), pairs[1][0] * 4 + 16)
    assert graphs_compiled() == 1


@pytest.mark.parametrize("first", [0, 1], ids=["local first", "remote first"])
def test_views_of_one_memory_are_written_in_either_kind(first: int, compiled: Compile) -> None:
    def write(a: Tensor, b: Tensor) -> Tensor:
        a.add_(1)
        b.mul_(2)
        return a + b

    run = compiled(write)
    for left, right in ((slice(0, 4), slice(2, 6)), (slice(0, 6), slice(2, 8)), (slice(0, 8), slice(0, 8))):
        torch._dynamo.reset()
        for kind in (first, 1 - first, first):
            [pair] = both_kinds(compiled, (8,))
            expected, whole = pair[0].clone(), pair[kind]
            same(run(whole[left], whole[right]), write(expected[left], expected[right]))
            same(whole, expected)
