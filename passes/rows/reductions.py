"""Rules of operators that work along some dimensions: reductions, softmax, sums so far, normalizations, sorting."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch.fx import Node

from dynamo_genie.passes.rows.shapes import argument, dims_of, shape_of
from dynamo_genie.passes.rows.template import Axes, Axis, CannotCut, Known, Rows, RowWise, Size


def reduction(node: Node, known: Known) -> RowWise:
    """One number of what lies along some dimensions (all where it names none), which go unless it keeps them."""
    axis, ndim = _first(node, known), len(shape_of(node.args[0]))
    dims = dims_of(_none_is_all(argument(node, "dim"), ndim), ndim)
    if axis.dim in dims:
        raise CannotCut("reduces over the rows")
    kept = bool(argument(node, "keepdim", False))
    moved = axis if kept else replace(axis, dim=axis.dim - sum(dim < axis.dim for dim in dims))
    return _with(node, axis, _results(node, moved))


def along(node: Node, known: Known) -> RowWise:
    """As many numbers as lie along one dimension, each of which may depend on all of them."""
    axis, ndim = _first(node, known), len(shape_of(node.args[0]))
    if axis.dim in dims_of(_none_is_all(argument(node, "dim", -1), ndim), ndim):
        raise CannotCut("works along the rows")
    return _with(node, axis, _results(node, axis))


def layer_norm(node: Node, known: Known) -> RowWise:
    """Normalizes the last dimensions, as many as its second argument names."""
    axis, ndim = _first(node, known), len(shape_of(node.args[0]))
    normalized: Any = node.args[1]
    if axis.dim >= ndim - len(normalized):
        raise CannotCut("normalizes over the rows")
    return _with(node, axis, _results(node, axis))


def group_norm(node: Node, known: Known) -> RowWise:
    """Normalizes groups of channels of each image: (x, weight, bias, images, channels, places, groups, eps)."""
    axis = _first(node, known)
    if axis != Axis(0) or argument(node, "N") != known.rows:
        raise CannotCut("normalizes over the rows")
    args = (Rows(node.args[0], axis), *node.args[1:3], Size(axis), *node.args[4:])  # type: ignore[arg-type]
    return RowWise((axis, axis, axis), args, node.kwargs)


def batch_norm(node: Node, known: Known) -> RowWise:
    """With running statistics, images are independent; in training the statistics are those of the batch."""
    axis = _first(node, known)
    if argument(node, "training", False) or "with_update" in str(node.target):
        raise CannotCut("takes statistics over the batch")
    if axis.dim == 1:
        raise CannotCut("normalizes channels, which are the rows")
    shared = (None,) * (len(node.meta["val"]) - 1)  # statistics of the channels
    return _with(node, axis, (axis, *shared))


def _first(node: Node, known: Known) -> Axis:
    axis = known.axis(node.args[0])
    if axis is None or known.has_rows([node.args[1:], node.kwargs]):
        raise CannotCut("has rows in an argument other than the first")
    return axis


def _with(node: Node, axis: Axis, axes: Axes) -> RowWise:
    return RowWise(axes, (Rows(node.args[0], axis), *node.args[1:]), node.kwargs)  # type: ignore[arg-type]


def _results(node: Node, axis: Axis) -> Axes:
    results = len(node.target._schema.returns)  # type: ignore[union-attr]
    return axis if results == 1 else (axis,) * results


def _none_is_all(dims: Any, ndim: int) -> Any:
    return tuple(range(ndim)) if dims is None or (isinstance(dims, (list, tuple)) and not dims) else dims
