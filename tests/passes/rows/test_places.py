"""Kernels that round the last entries of a tensor by another path: pieces begin where a vector does, or are none."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from dynamo_genie.passes.rows.analysis import find_rows
from dynamo_genie.passes.rows.pieces import pieces_at
from dynamo_genie.passes.rows.places import is_misplaced
from dynamo_genie.passes.rows.template import Axis
from tests.passes.rows.in_pieces import trace


def misplaced(call: Callable[[Tensor], Tensor], x: Tensor, dim: int, ends: Sequence[int]) -> bool:
    gm = trace(call, [x])
    [placeholder] = gm.graph.find_nodes(op="placeholder")
    rows = x.shape[dim]
    found = find_rows(gm, {placeholder: Axis(dim)}, rows).found
    return any(is_misplaced(node, template, rows, pieces_at([0, *ends])) for node, template in found.items())


@pytest.mark.parametrize("call", [torch.nn.functional.silu, torch.sigmoid, torch.nn.functional.gelu, torch.tanh])
def test_pieces_must_begin_where_a_vector_does(call: Callable[[Tensor], Tensor]) -> None:
    assert misplaced(call, torch.randn(13, 127, 255), 0, [7, 13])
    assert not misplaced(call, torch.randn(13, 128, 255), 0, [7, 13])
    assert not misplaced(call, torch.randn(1, 1300, 64), 1, [512, 1024, 1300]), "the last piece ends where all do"
    assert misplaced(call, torch.randn(2, 1300, 3), 1, [512, 1024, 1300]), "strips end within a vector"
    assert not misplaced(call, torch.randn(2, 1280, 64), 1, [512, 1024, 1280])


def test_what_is_defined_to_the_last_bit_has_one_result_anywhere() -> None:
    x = torch.randn(13, 127, 255)
    assert not misplaced(lambda x: torch.relu(x * 2 + x) / 3 - x, x, 0, [7, 13])
    assert misplaced(lambda x: torch.add(x, x, alpha=3), x, 0, [7, 13])
    assert not misplaced(torch.tanh, torch.randn(13, 127, 64), 0, [7, 13])


def test_integers_have_no_rounding() -> None:
    assert not misplaced(lambda x: x.pow(3), torch.arange(13 * 5).view(13, 5), 0, [7, 13])


def test_the_last_entries_really_are_rounded_otherwise() -> None:
    """Or else nobody needs this: some entry of some piece, of many tried, differs where pieces end within a vector."""
    torch.manual_seed(0)
    x = torch.randn(400, 255)
    whole = torch.nn.functional.silu(x)
    apart = torch.cat([torch.nn.functional.silu(row) for row in x.split(1)])
    aligned = torch.cat([torch.nn.functional.silu(rows) for rows in x.split(64)])
    assert torch.equal(whole, aligned)
    if torch.equal(whole, apart):
        pytest.skip("SKIPPED, ONE PATH: this processor's kernels have no other path for the last entries")
