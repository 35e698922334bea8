"""What works along some dimensions is row-wise along all others: reductions, softmax, sums so far, normalizations."""

from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynamo_genie.passes.rows.analysis import find_rows
from dynamo_genie.passes.rows.template import Axis
from tests.passes.rows.in_pieces import Case, check_case, check_in_pieces, graph_of_call

aten = torch.ops.aten


def normalized(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.batch_norm(x, mean, var.abs() + 1, weight, bias)


CASES: Mapping[str, Case] = {
    "sum": Case(lambda x: x.sum(1), "abc", "ac"),
    "sum over two": Case(lambda x: x.sum((0, -1)), "abc", "b"),
    "sum over all": Case(lambda x: x.sum(), "ab", ""),
    "sum over no dimension, which is all": Case(lambda x: aten.sum.dim_IntList(x, ()), "ab", ""),
    "mean": Case(lambda x: x.mean(-1, keepdim=True), "abc", "ab"),
    "amax": Case(lambda x: x.amax(0), "ab", "b", exact=True),
    "amin": Case(lambda x: x.amin((1,), keepdim=True), "abc", "ac", exact=True),
    "var": Case(lambda x: x.var(1), "abc", "ac"),
    "std": Case(lambda x: x.std(0, keepdim=True), "ab", "b"),
    "argmax": Case(lambda x: x.argmax(-1), "ab", "a", exact=True),
    "argmax over all": Case(lambda x: x.argmax(), "ab", "", exact=True),
    "max": Case(lambda x: x.max(1), "abc", "ac", exact=True),
    "max of two": Case(lambda x, y: aten.maximum(x, y), "ab,b", "ab", exact=True),
    "min": Case(lambda x: x.min(0, keepdim=True), "ab", "b", exact=True),
    "any": Case(lambda x: (x > 0).any(1), "abc", "ac", exact=True),
    "all": Case(lambda x: (x > 0).all(0), "ab", "b", exact=True),
    "prod": Case(lambda x: x.prod(1), "abc", "ac"),
    "logsumexp": Case(lambda x: x.logsumexp(1), "abc", "ac"),
    "norm": Case(lambda x: torch.linalg.vector_norm(x, dim=1), "abc", "ac"),
    "norm of all": Case(lambda x: torch.linalg.vector_norm(x), "ab", ""),
    "softmax": Case(lambda x: x.softmax(-1), "abc", "ab"),
    "log_softmax": Case(lambda x: x.log_softmax(1), "abc", "ac"),
    "cumsum": Case(lambda x: x.cumsum(1), "abc", "ac"),
    "cumprod": Case(lambda x: x.cumprod(0), "ab", "b"),
    "topk": Case(lambda x: x.topk(2, 1), "abc", "ac", exact=True),
    "sort": Case(lambda x: x.sort(0), "ab", "b", exact=True),
    "stable sort": Case(lambda x: x.sort(stable=True, dim=-1), "ab", "a", exact=True),
    "layer norm": Case(lambda x, w, b: F.layer_norm(x, x.shape[2:], w, b), "abc,c,c", "ab"),
    "layer norm over two": Case(lambda x: F.layer_norm(x, x.shape[1:]), "abc", "a"),
    "group norm": Case(lambda x, w, b: F.group_norm(x, 2, w, b), "a4bc,4,4", "a", blocks=False),
    "batch norm": Case(normalized, "abcd,b,b,b,b", "acd"),
    "batch norm in training": Case(lambda x, w, b: F.batch_norm(x, None, None, w, b, True), "abc,b,b", ""),
}


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=6)
@given(st.data())
def test_pieces_are_the_whole(name: str, data: st.DataObject) -> None:
    check_case(CASES[name], data)


@pytest.mark.parametrize(("dim", "refused"), [(0, []), (1, []), (2, ["normalizes over the rows"])])
def test_the_fused_rms_norm_which_no_trace_for_a_cpu_has(dim: int, refused: list[str]) -> None:
    tensors = [torch.randn(4, 4, 4), torch.randn(4)]
    gm = graph_of_call(aten._fused_rms_norm.default, tensors, lambda x, w: (x, [4], w, 1e-5))
    analysis = find_rows(gm, {next(iter(gm.graph.nodes)): Axis(dim)}, 4)
    assert list(analysis.refused.values()) == refused
    check_in_pieces(gm, tensors, analysis, [0, 1, 4])
