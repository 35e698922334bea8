"""Local and remote tensors in the same places: a function is compiled once for all, and again when it must be."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from dynamo_genie.tensor.remote_tensor import RemoteTensor
from dynamo_genie.torch_internals.compile_context import clear_counters, graphs_compiled
from tests.integration.compare import same
from tests.integration.conftest import Compile


def combine(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, ...]:
    return (a * b).sin() + c, d - a, (a @ b.t()).tanh() + d.size(0)


def both_kinds(compiled: Compile, *shapes: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    """Pairs of a local tensor and a remote one with the same elements."""
    with torch.no_grad():
        local = [torch.randn(shape) for shape in shapes]
        remote = [compiled(lambda x: x * 1, dynamic=True)(x) for x in local]
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
