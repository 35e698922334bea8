"""Branches and loops run in the daemon, which chooses; regions are seen through."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops import associative_scan, scan, while_loop
from torch._higher_order_ops import map as map_rows
from torch.nn import functional as F

import dynamo_genie
from tests.integration.compare import plain, same
from tests.integration.conftest import BACKEND_NAME
from tests.integration.semantics.operators.reference import assert_like_aot_eager

X, W = torch.linspace(-1, 2, 12).view(3, 4), torch.linspace(-0.5, 0.7, 16).view(4, 4)


def branches(x: Tensor, w: Tensor) -> Tensor:
    return torch.cond(x.sum() > 0, lambda a, b: (a @ b).sin(), lambda a, b: (a @ b).cos(), (x, w))


def nested_branches(x: Tensor, w: Tensor) -> Tensor:
    def inner(a: Tensor, b: Tensor) -> Tensor:
        return torch.cond(
            a.mean() > 0.1, lambda a, b: a @ b, lambda a, b: a - torch.tensor([1.0, 2.0, 3.0, 4.0]), (a, b)
        )

    return torch.cond(x.sum() > 0, inner, lambda a, b: a * b.sum(), (x, w))


def branch_that_draws(x: Tensor) -> Tensor:
    return torch.cond(x.sum() > 0, lambda a: F.dropout(a, 0.5), lambda a: a + 1, (x,)) + torch.rand(4)


def repeated(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    return while_loop(lambda i, a: i < 4, lambda i, a: (i + 1, (a @ w).sin()), (torch.tensor(0), x))


def repeated_by_a_number(x: Tensor, w: Tensor) -> tuple[int, Tensor]:
    return while_loop(lambda i, a: i < 3, lambda i, a: (i + 1, (a @ w).sin()), (0, x))


def never(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    return while_loop(lambda i, a: i < 0, lambda i, a: (i + 1, (a @ w).sin()), (torch.tensor(0), x))


def scanned(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    return scan(lambda carry, row: (carry + row @ w, (carry * row).sin()), x[0], x)


def mapped(x: Tensor, w: Tensor) -> Tensor:
    return map_rows(lambda row, w: (row @ w).sin(), x, w)


def joined(x: Tensor, w: Tensor) -> Tensor:
    return associative_scan(lambda a, b: a * b, x @ w, 0, combine_mode="generic")


@torch.compiler.nested_compile_region
def region(x: Tensor, w: Tensor) -> Tensor:
    return F.dropout((x @ w).sin(), 0.3)


@torch.compiler.nested_compile_region
def outer_region(x: Tensor, w: Tensor) -> Tensor:
    return region(x, w) + torch.tensor([1.0, 2.0, 3.0, 4.0])


def regions(x: Tensor, w: Tensor) -> Tensor:
    return outer_region(region(region(x, w), w), w)


def control_flow(x: Tensor, w: Tensor) -> list[Any]:
    ways = (branches, nested_branches, repeated, never, scanned, mapped, joined)
    return [way(sign * x, w) for way in ways for sign in (1, -1)]


def differentiable(x: Tensor, w: Tensor) -> list[Any]:
    return [branches(x, w), branches(-x, w), scanned(x, w), mapped(x, w), joined(x, w), regions(x, w)]


def test_branches_and_loops_are_what_aot_eager_makes_of_them(backend: Any) -> None:
    assert_like_aot_eager(backend, control_flow, X, W)
    assert_like_aot_eager(backend, regions, X, W)
    assert_like_aot_eager(backend, repeated_by_a_number, X, W)


def test_gradients_go_through_branches_loops_and_regions(backend: Any) -> None:
    assert_like_aot_eager(backend, differentiable, X, W, grad=True)


def test_gradients_go_through_a_loop_whose_length_the_data_tells(backend: Any) -> None:
    assert_like_aot_eager(backend, lambda x, w: repeated(x, w)[1], X, W, grad=True)


def test_only_the_branch_that_is_taken_draws_random_numbers(backend: Any) -> None:
    for x in (X, -X):
        assert_like_aot_eager(backend, branch_that_draws, x, grad=True)


class CountsPositiveInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        def positive(x: Tensor) -> Tensor:
            self.count.add_(1)
            return x.sin()

        return torch.cond(x.sum() > 0, positive, lambda x: x.cos(), (x,)), self.count + 1


def fills(x: Tensor, total: Tensor) -> tuple[Any, Tensor]:
    def body(i: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        total.add_(a)
        return i + 1, a * 2

    return while_loop(lambda i, a: i < 3, body, (torch.tensor(0), x)), total + 1


@torch.compiler.nested_compile_region
def adds(x: Tensor, total: Tensor) -> Tensor:
    total.add_(x)
    return x * total


def test_what_a_branch_a_loop_or_a_region_writes_is_written(backend: Any) -> None:
    for x in (X, -X):
        assert_like_aot_eager(backend, CountsPositiveInputs(), x)
    assert_like_aot_eager(backend, fills, X, torch.zeros(3, 4))
    assert_like_aot_eager(backend, lambda x, total: adds(x, total) + adds(x, total), X, torch.zeros(3, 4))


@pytest.mark.skipif(BACKEND_NAME != "genie", reason="counts what crosses the wire")
def test_the_daemon_chooses_a_branch_and_counts_steps_without_a_round_trip(compiled: Any) -> None:
    def step(x: Tensor, w: Tensor) -> Tensor:
        return repeated(branches(x, w) @ w, w)[1]

    call = compiled(step)
    with torch.no_grad():
        call(call(X, W), W)
        dynamo_genie.reset_stats()
        x = X
        for _ in range(3):
            x = call(x, W)
        total = dynamo_genie.stats()["total"]
        assert (total["calls"], total["round_trips"], total["fetches"]) == (3, 0, 0)
        expected = X
        for _ in range(3):
            expected = step(expected, W)
    same(plain(x), expected)


def test_checks_of_linear_algebra_inside_a_branch(backend: Any) -> None:
    def factor(x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda a: torch.linalg.cholesky(a).contiguous(), lambda a: a * 1, (x,))

    for x in (torch.eye(3), -torch.eye(3)):
        assert_like_aot_eager(backend, factor, x)


@pytest.mark.skipif(BACKEND_NAME != "genie", reason="the error names the line")
def test_an_error_inside_a_branch_names_its_line(compiled: Any) -> None:
    def rows(x: Tensor, index: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda a, i: a[i] * 2, lambda a, i: a[i * 0], (x, index))

    call = compiled(rows)
    with torch.no_grad():
        same(plain(call(-X, torch.tensor([7]))), -X[:1])
        with pytest.raises(IndexError, match="out of bounds") as caught:
            plain(call(X, torch.tensor([7])))
    assert "a[i] * 2" in "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])


def test_results_of_other_calls_are_operands_and_are_written(compiled: Any) -> None:
    def counts(x: Tensor, total: Tensor) -> Tensor:
        def positive(x: Tensor) -> Tensor:
            total.add_(1)
            return x.sin()

        return torch.cond(x.sum() > 0, positive, lambda x: x.cos(), (x,))

    with torch.no_grad():
        x, total = compiled(lambda x: (x * 1, x * 0))(X)
        same(plain(compiled(counts)(x, total)), X.sin())
        same(plain(total), torch.ones(3, 4))
        same(plain(torch.cond(x.sum() > 0, lambda a: a.sin(), lambda a: a.cos(), (x,))), X.sin())


def test_a_loop_carries_the_result_of_another_call(compiled: Any) -> None:
    def repeated(x: Tensor) -> Tensor:
        return while_loop(lambda i, a: i < 4, lambda i, a: (i + 1, (a @ W).sin()), (torch.tensor(0), x))[1]

    run = compiled(repeated)
    same(plain(run(run(X))), repeated(repeated(X)))
