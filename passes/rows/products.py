"""Rules of matrix products and convolutions: rows of the left matrix, columns of the right one, images of a batch."""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from dynamo_genie.passes.rows.pointwise import aligned
from dynamo_genie.passes.rows.shapes import argument, shape_of
from dynamo_genie.passes.rows.template import Axis, CannotCut, Known, Rows, RowWise


def product(node: Node, known: Known) -> RowWise:
    """[m, k] @ [k, n], or a batch of them: along m, n and the batch each entry of the result is its own sum."""
    return _product(node, known, ())


def product_with_bias(node: Node, known: Known) -> RowWise:
    """The same, and a bias that is broadcast to the result."""
    return _product(node, known, (node.args[0],))  # type: ignore[arg-type]


def _product(node: Node, known: Known, bias: tuple[Node, ...]) -> RowWise:
    operands: Any = node.args
    left, right = operands[len(bias) : len(bias) + 2]
    ndim = len(shape_of(node))
    one, other = known.axis(left), known.axis(right)
    args: tuple[Any, Any]
    m, n, batch = ndim - 2, ndim - 1, range(ndim - 2)
    if one and one.dim == m and other is None:
        axis, args = one, (Rows(left, one), right)
    elif other and other.dim == n and one is None:
        axis, args = other, (left, Rows(right, other))
    elif (shared := one or other) and shared.dim in batch and {one, other} <= {None, shared}:
        axis, args = shared, (Rows(left, shared), Rows(right, shared))
    else:
        raise CannotCut("sums over the rows")
    added = tuple(aligned(each, axis, ndim, known) for each in bias)
    return RowWise(axis, (*added, *args, *node.args[len(bias) + 2 :]), node.kwargs)


def convolution(node: Node, known: Known) -> RowWise:
    """Images of a batch are independent; along channels and places a convolution sums."""
    source, *others = node.args
    axis = known.axis(source)
    if axis != Axis(0) or known.has_rows(others):
        raise CannotCut("convolves along the rows")
    if len(shape_of(source)) != len(shape_of(argument(node, "weight"))):
        raise CannotCut("convolves something that is no batch")
    return RowWise(axis, (Rows(source, axis), *others), node.kwargs)  # type: ignore[arg-type]


def pooling(node: Node, known: Known) -> RowWise:
    """Pooling, padding and resampling of pictures: the images of a batch are independent."""
    axis = known.axis(node.args[0])
    if axis is None or axis.dim != 0 or len(shape_of(node.args[0])) < 4 or known.has_rows(node.args[1:]):
        raise CannotCut("pools along the rows")
    results = len(node.target._schema.returns)  # type: ignore[union-attr]
    axes = axis if results == 1 else (axis,) * results
    return RowWise(axes, (Rows(node.args[0], axis), *node.args[1:]), node.kwargs)  # type: ignore[arg-type]
