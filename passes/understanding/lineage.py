"""Data flow of a tensor's entries, forth and back: through views, casts, rotations, cats and scatters.

An operator *carries* its operand when the result holds the operand's entries, moved, scaled or put beside others. A
matrix product, a convolution, a normalisation by kernel or an attention makes new ones: there every walk ends.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch.fx import Node

from dynamo_genie.passes.graphs.graph_view import RESHAPING, nodes_in, origin, reached
from dynamo_genie.passes.understanding.axes import axis_before
from dynamo_genie.torch_internals.operators import OpOverload

aten = torch.ops.aten

SPLITS: frozenset[Any] = frozenset(
    {aten.split.Tensor, aten.split_with_sizes.default, aten.unbind.int, aten.chunk.default}
)
CATS: frozenset[Any] = frozenset({aten.cat.default, aten.stack.default})


@dataclass(frozen=True)
class Scatter:
    """An operator that overwrites part of its first argument, by the positions of its other arguments.

    Attributes:
        values: What is written.
        index: Where, if the places are listed in a tensor.
        axis: Along which dimension, if it names one.
    """

    values: int
    index: int | None = None
    axis: int | None = None


SCATTERS: Mapping[Any, Scatter] = MappingProxyType(
    {
        aten.index_copy.default: Scatter(3, index=2, axis=1),
        aten.index_copy_.default: Scatter(3, index=2, axis=1),
        aten.index_put.default: Scatter(2, index=1),
        aten.index_put_.default: Scatter(2, index=1),
        aten._unsafe_index_put.default: Scatter(2, index=1),
        aten.scatter.src: Scatter(3, index=2, axis=1),
        aten.slice_scatter.default: Scatter(1, axis=2),
        aten.select_scatter.default: Scatter(1, axis=2),
        aten.masked_scatter.default: Scatter(2),
        aten.copy.default: Scatter(1),
    }
)

_GATHERS: frozenset[Any] = frozenset(
    {
        aten.index.Tensor, aten.index_select.default, aten.gather.default, aten.roll.default, aten.flip.default,
        aten.select.int, aten.constant_pad_nd.default, aten.repeat.default, aten.narrow.default, aten.reshape.default,
        aten.as_strided.default, aten.lift_fresh_copy.default, aten.contiguous.default,
    }
)  # fmt: skip
_BLANKS: frozenset[Any] = frozenset(
    {
        aten.new_empty.default, aten.new_zeros.default, aten.new_ones.default, aten.new_full.default,
        aten.empty_like.default, aten.zeros_like.default, aten.ones_like.default, aten.full_like.default,
    }
)  # fmt: skip
"""What takes a shape from its operand, and no entries."""

PRODUCTS: Mapping[Any, int] = MappingProxyType(
    {aten.mm.default: 0, aten.addmm.default: 1, aten.bmm.default: 0, aten.baddbmm.default: 1, aten.matmul.default: 0}
)
"""Matrix products, with the position of their left operand."""

_REDUCTIONS: frozenset[Any] = frozenset({aten.mean.dim, aten.amax.default, aten.amin.default, aten.sum.dim_IntList})
"""What scales are made of: the norm of a key, the range of a quantised one."""


def history(node: Node, axis: int | None) -> dict[Node, int | None]:
    """Return `node` and all it is carried from, nearest first, each with the dimension that `axis` has there."""
    found: dict[Node, int | None] = {node: axis}
    pending = [node]
    for current in pending:
        for source in carried_from(current):
            if source not in found:
                found[source] = axis_before(current, source, found[current])
                pending.append(source)
    return found


def carried_from(node: Node) -> Iterator[Node]:
    """Yield the operands whose entries `node` holds."""
    target: Any = node.target
    if node.op != "call_function":
        return
    if target in RESHAPING or target in SPLITS or target in _GATHERS or target in _REDUCTIONS:
        yield from nodes_in(node.args[0])
    elif target is operator.getitem:
        whole = node.args[0]
        if isinstance(whole, Node) and whole.target in SPLITS:
            yield whole
    elif target in CATS:
        yield from nodes_in(node.args[0])
    elif target in SCATTERS:
        yield from nodes_in((node.args[0], node.args[SCATTERS[target].values]))
    elif is_pointwise(node):
        yield from node.all_input_nodes


def is_computed(node: Node) -> bool:
    """Say whether a node makes new entries from tensors: a walk along what is carried ends there."""
    makes = node.op == "call_function" and node.target not in _BLANKS and next(carried_from(node), None) is None
    return makes and any(isinstance(source.meta.get("val"), torch.Tensor) for source in node.all_input_nodes)


def projected(node: Node) -> Iterator[Node]:
    """Yield the operand that a computing node takes its entries from: what a product multiplies with a weight."""
    position = PRODUCTS.get(node.target, 0)
    yield from (operand for operand in node.args[position : position + 1] if isinstance(operand, Node))


def roots_of(found: Iterable[Node]) -> frozenset[Node]:
    """Return what the computing nodes among some nodes took their entries from."""
    return frozenset(origin(operand) for node in found if is_computed(node) for operand in projected(node))


def is_pointwise(node: Node) -> bool:
    """Say whether an operator computes each element of its result from the elements at the same place."""
    return isinstance(node.target, OpOverload) and torch.Tag.pointwise in node.target.tags


def carried_to(nodes: list[Node]) -> Iterator[Node]:
    """Return the given nodes and every node that carries their entries on, nearest first."""
    return reached(nodes, lambda node: (user for user in node.users if node in carried_from(user)))
