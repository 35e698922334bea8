"""The cost of each operator: bytes of its result and floating point operations, at the sizes of the example.

A multiply-add counts two. Operators without a formula here move data or work element by element; they count no
operations, for reading and writing their tensors is what takes their time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch.fx import GraphModule, Node

from dynamo_genie.passes.graphs.graph_view import is_attention
from dynamo_genie.passes.graphs.portable_operators import (
    PORTABLE_REPLACEMENTS,
    portable_attention,
    portable_attention_backward,
    portable_grouped_mm,
    portable_grouped_mm_backward,
)
from dynamo_genie.passes.graphs.semantics import Facts, dtype_of, nbytes_of, sizes_of

aten = torch.ops.aten

Shape = tuple[int, ...]


def find_costs(gm: GraphModule) -> dict[Node, Facts]:
    """Return the bytes, operations and dtype of every node of `gm`; None where they depend on data."""
    return {
        node: Facts(nbytes=nbytes_of(node), flops=flops_of(node), dtype=dtype_of(node))
        for node in gm.graph.nodes
        if node.op != "output"
    }


def flops_of(node: Node) -> int | None:
    """Return the floating point operations of one node; None where a size depends on data."""
    formula = _formula(node)
    if formula is None:
        return 0
    try:
        return formula(node)
    except _UnknownSize:
        return None


class _UnknownSize(Exception):
    """A formula met a size that only running the graph can tell."""


def _formula(node: Node) -> Callable[[Node], int] | None:
    if node.op != "call_function":
        return None
    if is_attention(node):
        return _attention_flops
    target: Any = node.target
    return _FORMULAS.get(PORTABLE_REPLACEMENTS.get(target, target))


def _product_flops(node: Node, left: int = -2, products: int = 1) -> int:
    """2·M·K·N for [M, K] @ [K, N], once a matrix: K multiply-adds an element (Golub and Van Loan, §1.1).

    Of groups of rows, [M, K] with [G, K, N], every row meets one matrix; their gradients are two products of that size.
    """
    rows, matrix = node.args[left], node.args[left + 1]
    return 2 * products * math.prod(_shape(rows)) * _shape(matrix)[-1]


def _attention_flops(node: Node) -> int:
    """Two products, q·kᵀ and p·v, with the softmax left out (Dao et al. 2022, FlashAttention, §3).

    Fused kernels skip the blocks of a causal attention that nobody sees, about half of them; plain ones compute all.
    """
    query, key, value = (_shape(argument) for argument in node.args[:3])
    rows, keys = math.prod(query[:-1]), key[-2]
    if node.target is portable_attention and len(node.args) > 4 and node.args[4]:
        keys = (keys + 1) // 2 if query[-2] == keys else keys
    return 2 * rows * keys * (query[-1] + value[-1])


def _attention_backward_flops(node: Node) -> int:
    """Five products: the scores again, then dV, dP, dQ and dK (Dao et al. 2022, FlashAttention, algorithm 4)."""
    query, key, value = (_shape(argument) for argument in node.args[1:4])
    rows = math.prod(query[:-1])
    return 2 * rows * key[-2] * (3 * query[-1] + 2 * value[-1])


def _convolution_flops(node: Node) -> int:
    """Each place of the output (of the input, transposed) meets the whole filter (Dumoulin, Visin 2016, §2 and §4)."""
    places = _shape(node.args[0]) if node.args[6] else _result_shape(node)
    return 2 * places[0] * math.prod(places[2:]) * math.prod(_shape(node.args[1]))


def _convolution_backward_flops(node: Node) -> int:
    """The forward's products again for each gradient that is asked for: of the input, and of the filter.

    PyTorch's counter gives the gradient of a grouped filter `groups` times as many; we count what is computed.
    """
    gradient, source, weight = node.args[:3]
    places = _shape(source if node.args[7] else gradient)
    mask: Any = node.args[10]
    return 2 * places[0] * math.prod(places[2:]) * math.prod(_shape(weight)) * sum(map(bool, mask[:2]))


_FORMULAS: Mapping[Any, Callable[[Node], int]] = MappingProxyType(
    {
        aten.mm.default: _product_flops,
        aten.addmm.default: _product_flops,
        aten.bmm.default: _product_flops,
        aten.baddbmm.default: _product_flops,
        aten.convolution.default: _convolution_flops,
        aten.convolution_backward.default: _convolution_backward_flops,
        portable_attention_backward: _attention_backward_flops,
        portable_grouped_mm: partial(_product_flops, left=0),
        portable_grouped_mm_backward: partial(_product_flops, left=0, products=2),
    }
)


def _shape(argument: Any) -> Shape:
    assert isinstance(argument, Node)
    return _sizes(argument.meta["val"])


def _result_shape(node: Node) -> Shape:
    return _sizes(node.meta["val"])


def _sizes(value: torch.Tensor) -> Shape:
    sizes = sizes_of(value)
    if sizes is None:
        raise _UnknownSize
    return sizes
