"""What cannot run piece by piece, and why; what was cut before it is joined, and results stay those of the whole."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynamo_genie.passes.rows.analysis import find_rows, reasons
from dynamo_genie.passes.rows.rules import row_wise
from dynamo_genie.passes.rows.template import Axis, CannotCut, Known
from tests.passes.rows.in_pieces import check_in_pieces, graph_of_call, trace

aten = torch.ops.aten

BATCH, TOKENS, WIDTH = 2, 6, 4

weight = torch.linspace(-1, 1, WIDTH * WIDTH).view(WIDTH, WIDTH)
kernel = torch.linspace(-1, 1, WIDTH * WIDTH * 3).view(WIDTH, WIDTH, 3)
later = torch.full((TOKENS, TOKENS), -torch.inf).triu(1)
lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True).requires_grad_(False)


def attend(x: Tensor, **options: Any) -> Tensor:
    heads = x.view(BATCH, TOKENS, 2, WIDTH // 2).transpose(1, 2)
    attended, _ = aten._scaled_dot_product_flash_attention_for_cpu(heads, heads, heads, **options)
    return attended.transpose(1, 2).reshape(x.shape)


def with_room_for(x: Tensor, capacity: int) -> Tensor:
    """An expert that takes the tokens with the highest scores, as many as it has room for."""
    scores, chosen = x.sum(-1).topk(capacity, dim=1)
    return x.gather(1, chosen.unsqueeze(-1).expand(-1, -1, WIDTH)) * scores.unsqueeze(-1)


def recurrence(x: Tensor) -> Tensor:
    state = torch.zeros(BATCH, WIDTH)
    for token in range(TOKENS):
        state = torch.tanh(x[:, token] @ weight + state)
    return state


@dataclass(frozen=True)
class Late:
    """What is made once, of all rows, after a product and a GELU that run piece by piece."""

    call: Callable[[Tensor], Any]
    reason: str
    dim: int = 1


LATE: Mapping[str, Late] = {
    "mean pooling": Late(lambda x: x.mean(1) @ weight, "reduces over the rows"),
    "sum of the batch": Late(lambda x: x.sum(0), "reduces over the rows", 0),
    "softmax along the sequence": Late(lambda x: x.softmax(1), "works along the rows"),
    "batch norm in training": Late(
        lambda x: F.batch_norm(x.transpose(1, 2), None, None, training=True), "takes statistics over the batch", 0
    ),
    "attention in both directions": Late(lambda x: attend(x) @ weight, "attends along the rows in both directions"),
    "attention with a mask": Late(lambda x: attend(x, attn_mask=later), "with a mask, which may show a query"),
    "attention with a causal mask of its own": Late(
        lambda x: torch.softmax(x @ x.transpose(1, 2) + later, -1) @ x, "sums over the rows"
    ),
    "convolution along the sequence": Late(
        lambda x: F.conv1d(x.transpose(1, 2), kernel, padding=1), "convolves along the rows"
    ),
    "causal convolution without a cache": Late(
        lambda x: F.conv1d(F.pad(x.transpose(1, 2), (2, 0)), kernel), "adds rows"
    ),
    "sums so far": Late(lambda x: x.cumsum(1) * 2, "works along the rows"),
    "an LSTM": Late(lambda x: lstm(x)[0], "has no rule by which rows are independent"),
    "a recurrence, step by step": Late(recurrence, "takes one of the rows"),
    "experts with a capacity": Late(lambda x: with_room_for(x, 2), "works along the rows"),
    "tokens in order of a score": Late(
        lambda x: x.gather(1, x.sort(dim=1, stable=True).indices), "works along the rows"
    ),
    "tokens reversed": Late(lambda x: x.flip(1) @ weight, "moves the rows"),
    "a class token before the others": Late(lambda x: torch.cat([x[:, :1] * 2, x], 1), "takes some of the rows"),
    "a token appended": Late(lambda x: torch.cat([torch.ones(BATCH, 1, WIDTH), x], 1), "appends rows to others"),
    "halves of the sequence": Late(lambda x: torch.add(*x.split(TOKENS // 2, 1)), "parts the rows"),
    "patches of tokens": Late(
        lambda x: x.reshape(BATCH, 2, TOKENS // 2, WIDTH) + 1, "spreads the rows over several dimensions"
    ),
    "a table made of the rows": Late(lambda x: x[:, torch.tensor([3, 0, 0])], "looks up in the rows"),
    "a Gram matrix of tokens": Late(lambda x: x @ x.transpose(1, 2), "sums over the rows"),
    "lower triangle": Late(lambda x: x.tril(), "has no rule by which rows are independent"),
    "rows along two dimensions": Late(lambda x: x.unsqueeze(1) * x.unsqueeze(2), "has rows along several dimensions"),
    "a vanishing row": Late(lambda x: aten.squeeze.default(x) + 1, "dimension of a single row"),
}


@pytest.mark.parametrize("name", LATE)
@pytest.mark.parametrize("boundaries", [[0, 3, 6], [0, 1, 4, 6]])
def test_what_needs_all_rows_comes_after_the_pieces(name: str, boundaries: list[int]) -> None:
    late = LATE[name]
    rows = TOKENS if late.dim == 1 else 8
    x = torch.randn(BATCH, TOKENS, WIDTH) if late.dim == 1 else torch.randn(rows, TOKENS, WIDTH)
    gm = trace(lambda x: late.call(F.gelu(x @ weight)), [x])
    analysis = find_rows(gm, {gm.graph.find_nodes(op="placeholder")[0]: Axis(late.dim)}, rows)
    assert aten.gelu.default in {node.target for node in analysis.found}
    assert late.reason in next(iter(analysis.refused.values())), dict(analysis.refused)
    check_in_pieces(gm, [x], analysis, [*boundaries[:-1], rows])


def test_reasons_name_the_operator_and_leave_out_what_takes_some_rows() -> None:
    x = torch.randn(BATCH, TOKENS, WIDTH)
    gm = trace(lambda x: (x[:, -1] @ weight, x.mean(1)), [x])
    analysis = find_rows(gm, {gm.graph.find_nodes(op="placeholder")[0]: Axis(1)}, TOKENS)
    assert list(analysis.refused.values()) == ["takes one of the rows", "reduces over the rows"]
    assert reasons(analysis) == ("mean.dim (mean) reduces over the rows",)


def test_a_rule_raises_its_reason() -> None:
    gm = trace(lambda x: x.cumsum(0), [torch.randn(4, 3)])
    x, cumsum, _ = gm.graph.nodes
    known = Known(4)
    known.axes[x] = Axis(0)
    with pytest.raises(CannotCut, match="works along the rows"):
        row_wise(cumsum, known)
    known.axes[x] = Axis(1)
    assert row_wise(cumsum, known).axes == Axis(1)


def test_a_mask_of_indices_has_no_place_for_each_row() -> None:
    x, mask = torch.randn(4, 3), torch.tensor([True, False, True, True])
    gm = trace(lambda x, mask: x[mask], [x, mask])
    _, rows = gm.graph.find_nodes(op="placeholder")
    analysis = find_rows(gm, {rows: Axis(0)}, 4)
    assert list(analysis.refused.values()) == ["takes as many entries as a mask has true ones"]


def test_operands_whose_rows_lie_elsewhere() -> None:
    """A square product whose bias has its rows along the columns; a mask of queries by keys, one a sample."""
    tensors = [torch.randn(4), torch.randn(4, 3), torch.randn(3, 4)]
    gm = trace(torch.addmm, tensors)
    bias, left, _ = gm.graph.find_nodes(op="placeholder")
    analysis = find_rows(gm, {bias: Axis(0), left: Axis(0)}, 4)
    assert list(analysis.refused.values()) == ["has an operand with other rows"]
    check_in_pieces(gm, tensors, analysis, [0, 1, 4])

    tensors = [*(torch.randn(4, 2, 4, 8) for _ in range(3)), torch.randn(4, 4)]
    gm = trace(lambda q, k, v, m: aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=m), tensors)
    seeds = {node: Axis(0) for node in gm.graph.find_nodes(op="placeholder")}
    analysis = find_rows(gm, seeds, 4)
    assert list(analysis.refused.values()) == ["has an operand with other rows"]
    check_in_pieces(gm, tensors, analysis, [0, 1, 4])


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda x: F.dropout(x, 0.5), "draws random numbers"),
        (lambda x: x + torch.rand_like(x), "draws random numbers"),
        (lambda x: x * torch.randn(4), "draws random numbers"),
        (lambda x: x.add_(1), "writes into memory"),
    ],
)
def test_effects_that_happen_once_and_in_order_keep_a_graph_whole(call: Any, reason: str) -> None:
    gm = trace(call, [torch.randn(6, 4)])
    with pytest.raises(CannotCut, match=reason):
        find_rows(gm, {gm.graph.find_nodes(op="placeholder")[0]: Axis(0)}, 6)


def test_an_operator_that_nobody_knows_is_late() -> None:
    gm = graph_of_call(aten.linalg_cross.default, [torch.randn(6, 3), torch.randn(6, 3)], lambda x, y: (x, y))
    x, y = gm.graph.find_nodes(op="placeholder")
    analysis = find_rows(gm, {x: Axis(0), y: Axis(0)}, 6)
    assert list(analysis.refused.values()) == ["has no rule by which rows are independent"]
