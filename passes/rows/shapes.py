"""Shapes of a graph's values as numbers, and the arguments of its calls by name."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import Node

from dynamo_genie.passes.rows.template import Axis, CannotCut


def shape_of(node: Any) -> tuple[int, ...]:
    """Return a tensor's shape."""
    value = node.meta.get("val") if isinstance(node, Node) else None
    if not isinstance(value, torch.Tensor) or not all(isinstance(size, int) for size in value.shape):
        raise CannotCut("has an argument whose shape is not known")
    return tuple(value.shape)


def argument(node: Node, name: str, default: Any = None) -> Any:
    """Return what a call gives for an argument of its operator, by the name that it has in the schema."""
    if name in node.kwargs:
        return node.kwargs[name]
    for position, formal in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if formal.name == name:
            return node.args[position] if position < len(node.args) else default
    return default


def dims_of(value: Any, ndim: int) -> tuple[int, ...]:
    """Return dimensions, one or several, counted from the front."""
    return tuple(dim % ndim for dim in (value if isinstance(value, (list, tuple)) else [value])) if ndim else ()


def in_view(axis: Axis, rows: int, before: tuple[int, ...], after: tuple[int, ...]) -> Axis:
    """Return where rows lie in a view of the same elements in another shape.

    Elements keep their order, so what comes before and after the rows among the factors of the shape stays what it is::

        [2, 128, 64] rows along 1 -> [256, 64]: along 0, outer 2, inner 1

    Raises:
        CannotCut: The rows are spread over several dimensions of the view, or have no elements.
    """
    if not math.prod(after):
        raise CannotCut("has no elements, so that its shape does not tell where the rows are")
    above = math.prod(before[: axis.dim]) * axis.outer
    below = axis.inner * math.prod(before[axis.dim + 1 :])
    seen = 1
    for dim, size in enumerate(after):
        if size > 1 and above % seen == 0 and above < seen * size:
            outer = above // seen
            inner, left = divmod(size, outer * rows)
            if left == 0 and inner * math.prod(after[dim + 1 :]) == below:
                return Axis(dim, outer, inner)
            break
        seen *= size
    raise CannotCut("spreads the rows over several dimensions")
