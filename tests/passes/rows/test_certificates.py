"""A certificate of a kernel says whether pieces have the bits of the whole, as random tensors of those shapes show."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import GraphModule

from dynamo_genie.passes.rows.analysis import RowAnalysis, find_rows
from dynamo_genie.passes.rows.certificates import DRAWS, comparison, kernels_of
from dynamo_genie.passes.rows.cut_rows import cut_rows
from dynamo_genie.passes.rows.pieces import pieces_at
from dynamo_genie.passes.rows.template import Axis
from tests.passes.rows.in_pieces import trace

aten = torch.ops.aten


def analysed(gm: GraphModule, rows: int, dim: int = 0) -> RowAnalysis:
    return find_rows(gm, {gm.graph.find_nodes(op="placeholder")[0]: Axis(dim)}, rows)


def certified(analysis: RowAnalysis, boundaries: Sequence[int]) -> dict[str, bool]:
    """Return, for each kernel by the name of its operator, whether its bits are those of the whole."""
    pieces = pieces_at(boundaries)
    kernels = kernels_of(analysis, pieces)
    found = comparison(kernels, analysis, pieces)()
    return {kernel.text.split()[0]: bool(equal) for kernel, equal in zip(kernels, found, strict=True)}


def has_equal_bits(gm: GraphModule, analysis: RowAnalysis, boundaries: Sequence[int]) -> bool:
    """Say whether pieces of some random tensors have the bits of the whole."""
    cut = cut_rows(gm, analysis, pieces_at(boundaries)).gm
    shapes = [node.meta["val"].shape for node in gm.graph.find_nodes(op="placeholder")]
    drawn = [[torch.randn(shape) for shape in shapes] for _ in range(4)]
    return all(
        torch.equal(one, other) for inputs in drawn for one, other in zip(gm(*inputs), cut(*inputs), strict=True)
    )


def linear(rows: int, width: int, columns: int) -> GraphModule:
    tensors = [torch.randn(rows, width), torch.randn(columns, width), torch.randn(columns)]
    return trace(lambda x, w, b: F.linear(x, w, b), tensors)


@pytest.mark.parametrize("width", [32, 64, 300])
@pytest.mark.parametrize("boundaries", [[0, 1, 24], [0, 8, 16, 24], [0, 3, 23, 24], [0, 12, 24]])
def test_a_linear_layer_is_certified_where_its_bits_are_equal(width: int, boundaries: list[int]) -> None:
    gm = linear(24, width, 96)
    analysis = analysed(gm, 24)
    assert certified(analysis, boundaries) == {"addmm.default": has_equal_bits(gm, analysis, boundaries)}


def test_kernels_that_round_otherwise_for_few_rows_are_found() -> None:
    """A product with one row is a product with a vector: other loops, another order of additions."""
    widths = (32, 64, 300, 1000)
    found = [certified(analysed(linear(24, width, 96), 24), [0, 1, 24])["addmm.default"] for width in widths]
    assert not all(found)


def test_attention_in_other_blocks_than_the_whole_is_found() -> None:
    """Blocks of queries are as long as the whole is (32 up to 192 queries, 64 up to 768, 256 beyond)."""
    tensors = [torch.randn(1, 2, 200, 8)] * 3
    gm = trace(lambda q: aten._scaled_dot_product_flash_attention_for_cpu(q * 2, q, q * 3, is_causal=True), tensors[:1])
    analysis = analysed(gm, 200, dim=2)
    assert analysis.refused == {}
    for boundaries in ([0, 1, 200], [0, 37, 200]):
        said = certified(analysis, boundaries)["portable_attention"]
        assert said == has_equal_bits(gm, analysis, boundaries)
        assert not said


CALLS: Mapping[str, Callable[[Tensor], Any]] = {
    "gelu": F.gelu,
    "argmax": lambda x: x.argmax(-1),
    "layer norm": lambda x: F.layer_norm(x, x.shape[-1:]),
    "comparison": lambda x: x > 0.5,
    "choice": lambda x: torch.where(x > 0, x, 0.0),
    "maximum": lambda x: x.max(1),
    "softmax": lambda x: x.softmax(-1),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_works_row_by_row_is_certified(name: str) -> None:
    gm = trace(CALLS[name], [torch.randn(12, 64)])
    analysis = analysed(gm, 12)
    found = certified(analysis, [0, 1, 7, 12])
    assert found
    assert all(found.values())
    assert has_equal_bits(gm, analysis, [0, 1, 7, 12])


def test_two_that_are_no_numbers_are_equal() -> None:
    gm = trace(lambda x: (x.log(), x.sqrt()), [torch.randn(12, 64)])
    analysis = analysed(gm, 12)
    pieces = pieces_at([0, 5, 12])
    said = comparison(kernels_of(analysis, pieces), analysis, pieces)
    compared = [node for node in said.graph.nodes if node.target in (aten.log.default, aten.sqrt.default)]
    assert len(compared) == (DRAWS + 1) * (1 + len(pieces)), "a logarithm may be rounded by place, a root may not"
    assert certified(analysis, [0, 5, 12]) == {"log.default": True, "sqrt.default": True}
    values = _values(said, compared)
    assert all(value.isnan().any() and not value.isnan().all() for value in values)


def _values(gm: GraphModule, wanted: Sequence[Any]) -> list[Tensor]:
    class Keeping(torch.fx.Interpreter):
        def run_node(self, n: Any) -> Any:
            result = super().run_node(n)
            if n in wanted:
                kept.append(result)
            return result

    kept: list[Tensor] = []
    Keeping(gm).run()
    return kept


def test_each_kernel_is_tried_once_and_copies_never() -> None:
    def layers(x: Tensor, w: Tensor) -> Tensor:
        for _ in range(3):
            x = torch.cat([x @ w, x], 1)[:, : x.shape[1]].clone()
        return x.flip(1).view(-1)

    gm = trace(layers, [torch.randn(12, 8), torch.randn(8, 8)])
    analysis = analysed(gm, 12)
    assert analysis.refused == {}
    (kernel,) = kernels_of(analysis, pieces_at([0, 5, 12]))
    assert kernel.text.startswith("mm.default [")
    assert "at 5,12" in kernel.text


def test_other_shapes_strides_and_pieces_are_other_kernels() -> None:
    def products(x: Tensor, w: Tensor) -> Any:
        return x @ w, x @ w.t(), x[:, :4] @ w[:4], x.double() @ w.double()

    gm = trace(products, [torch.randn(12, 8), torch.randn(8, 8)])
    analysis = analysed(gm, 12)
    texts = [
        {kernel.text for kernel in kernels_of(analysis, pieces_at(ends)) if kernel.text.startswith("mm")}
        for ends in ([0, 5, 12], [0, 6, 12])
    ]
    assert [len(each) for each in texts] == [4, 4]
    assert not texts[0] & texts[1]
