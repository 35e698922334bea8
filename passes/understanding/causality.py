"""Causal masks, which hide later positions, told from how they are computed. Knows nothing of attention operators."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.fx import Node

from dynamo_genie.passes.graphs.graph_view import RESHAPING, reached
from dynamo_genie.passes.understanding.axes import shape_of
from dynamo_genie.passes.understanding.lineage import CATS, is_pointwise

aten = torch.ops.aten

_TRIANGLES: frozenset[Any] = frozenset({aten.triu.default, aten.tril.default})
_ORDERINGS: frozenset[Any] = frozenset({aten.le.Tensor, aten.lt.Tensor, aten.ge.Tensor, aten.gt.Tensor})
_COUNTERS: frozenset[Any] = frozenset(
    {aten.arange.default, aten.arange.start, aten.arange.start_step, aten.cumsum.default}
)
_ARRANGES: frozenset[Any] = frozenset(
    {aten.index.Tensor, aten.slice_scatter.default, aten.copy.default, aten.select.int, aten.repeat.default}
)


def is_causal(mask: Node, buffers: frozenset[Node] = frozenset()) -> bool:
    """Say whether a mask is a triangle, or comes of comparing positions of keys with positions of queries.

    A square that the model keeps as one of its `buffers`, or the graph as a constant, is taken for a triangle: nothing
    else is worth storing.
    """
    return any(
        node.target in _TRIANGLES or _orders(node) or _is_stored_square(node, buffers) for node in mask_history(mask)
    )


def mask_history(mask: Node) -> Iterator[Node]:
    """Return a mask and what it is computed from, nearest first."""
    return reached([mask], lambda node: _table_of(node) if _arranges(node) else ())


def _arranges(node: Node) -> bool:
    return node.target in RESHAPING or node.target in _ARRANGES or node.target in CATS or is_pointwise(node)


def _table_of(node: Node) -> list[Node]:
    """Return the operands whose values a mask shows; what it is indexed with chooses among them only."""
    first = node.args[0] if node.args else None
    return [first] if node.target is aten.index.Tensor and isinstance(first, Node) else node.all_input_nodes


def _orders(node: Node) -> bool:
    """Say whether a node compares two lists of positions, each counted along a dimension of its own."""
    if node.target not in _ORDERINGS:
        return False
    sides = node.args[:2]
    if not all(isinstance(side, Node) for side in sides):
        return False
    one, other = (shape_of(side) for side in sides if isinstance(side, Node))
    crossed = one is not None and other is not None and one != other
    return crossed and any(_counts(side) for side in sides if isinstance(side, Node))


def _counts(node: Node) -> bool:
    return any(source.target in _COUNTERS for source in mask_history(node))


def _is_stored_square(node: Node, buffers: frozenset[Node]) -> bool:
    shape = shape_of(node) if node in buffers or node.op == "get_attr" else None
    if shape is None or len(shape) < 2 or node.meta["val"].dtype is torch.int64:  # a table of indices, no mask
        return False
    return shape[-1] == shape[-2] > 1 and set(shape[:-2]) <= {1}
