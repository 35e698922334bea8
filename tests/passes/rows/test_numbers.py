"""A graph with symbolic sizes becomes one with those of a call, and can be cut then."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from dynamo_genie.passes.rewrites.portable import make_portable
from dynamo_genie.passes.rows.analysis import find_rows
from dynamo_genie.passes.rows.numbers import has_symbols, with_numbers
from dynamo_genie.passes.rows.template import Axis, CannotCut
from tests.captured import capture
from tests.passes.rows.in_pieces import Described, check_in_pieces

weight = torch.randn(8, 8)

Call = tuple[GraphModule, Sequence[Any]]


def layer(x: Tensor, times: int) -> Tensor:
    positions = torch.arange(x.shape[1]).view(1, -1, 1) / (x.shape[1] + 1)
    return (x.view(-1, x.shape[-1]) @ weight).view(x.shape) * times + positions


def attention(x: Tensor, times: int) -> Tensor:
    heads = (x * times).view(x.shape[0], x.shape[1], 2, -1).transpose(1, 2)
    attended = torch.nn.functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True)
    return attended.transpose(1, 2).reshape(x.shape)


def with_sizes(x: Tensor, times: int) -> tuple[Tensor, int, int]:
    return x * times, x.shape[0] * x.shape[1], x.shape[1] // 2


both = pytest.mark.parametrize("function", [layer, attention])


def called(function: Callable[..., Any], *calls: tuple[Any, ...]) -> list[Call]:
    """Compile a function with symbolic sizes; return the graph of each call, and its arguments."""
    kept: list[Call] = []

    def replace(gm: GraphModule) -> Callable[..., Any]:
        gm = make_portable(gm).graph_module

        def run(*inputs: Any) -> Any:
            kept.append((gm, inputs))
            return gm(*inputs)

        return run

    with torch.no_grad():
        compiled, _ = capture(function, replace, dynamic=True)
        for args in calls:
            compiled(*args)
    return kept


def tensor_of(gm: GraphModule, ndim: int) -> Node:
    inputs = gm.graph.find_nodes(op="placeholder")
    (found,) = (n for n in inputs if isinstance(n.meta["val"], Tensor) and n.meta["val"].ndim == ndim)
    return found


@pytest.mark.parametrize("function", [layer, attention, with_sizes])
def test_one_graph_takes_the_sizes_of_each_call(function: Callable[..., Any]) -> None:
    calls = called(function, (torch.randn(3, 6, 8), 2), (torch.randn(2, 9, 8), 3))
    (gm, _), (again, _) = calls
    assert again is gm
    assert has_symbols(gm)
    for _, args in calls:
        sized = with_numbers(gm, args)
        assert not has_symbols(sized)
        names = [[node.name for node in each.graph.find_nodes(op="placeholder")] for each in (gm, sized)]
        assert names[0] == names[1]
        expected, got = gm(*args), Described(sized).run(*args)
        assert [type(each) for each in got] == [type(each) for each in expected]
        assert all(map(torch.equal, map(torch.as_tensor, got), map(torch.as_tensor, expected)))


@both
def test_a_graph_with_symbols_is_cut_once_it_has_numbers(function: Callable[..., Any]) -> None:
    ((gm, args),) = called(function, (torch.randn(3, 6, 8), 2))
    assert "shape is not known" in str(find_rows(gm, {tensor_of(gm, 3): Axis(1)}, 6).refused)
    sized = with_numbers(gm, args)
    analysis = find_rows(sized, {tensor_of(sized, 3): Axis(1)}, 6)
    assert analysis.refused == {}
    check_in_pieces(sized, args, analysis, [0, 2, 6])


def test_a_size_that_data_tells_has_no_number() -> None:
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        ((gm, args),) = called(lambda x: x[x > 0] * 2, (torch.randn(3, 6),))
    assert has_symbols(gm)
    with pytest.raises(CannotCut, match="a size depends on data"):
        with_numbers(gm, args)


def test_a_graph_without_symbols_has_none() -> None:
    gm = torch.fx.symbolic_trace(lambda x: x * 2)
    assert not has_symbols(gm)
