"""Rules of operators that arrange elements anew: views, permutations, slices, concatenations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.fx import Node

from dynamo_genie.passes.rows.pointwise import only
from dynamo_genie.passes.rows.shapes import argument, dims_of, in_view, shape_of
from dynamo_genie.passes.rows.template import TAKES, Axes, Axis, CannotCut, Known, Rows, RowWise, Size


def view(node: Node, known: Known) -> RowWise:
    """The same elements in another shape."""
    axis, shape = _own(node, known), shape_of(node)
    if isinstance(node.args[1], torch.dtype):
        raise CannotCut("reads the memory as another dtype")
    moved = in_view(axis, known.rows, shape_of(node.args[0]), shape)
    return _arranged(node, axis, moved, _sizes(shape, moved))


def expand(node: Node, known: Known) -> RowWise:
    """Repeats dimensions of size 1, and adds some in front."""
    axis, shape = _own(node, known), shape_of(node)
    moved = replace(axis, dim=axis.dim + len(shape) - len(shape_of(node.args[0])))
    return _arranged(node, axis, moved, _sizes(shape, moved))


def permute(node: Node, known: Known) -> RowWise:
    """Puts dimensions in another order."""
    axis = _own(node, known)
    order = dims_of(node.args[1], len(shape_of(node)))
    return _arranged(node, axis, replace(axis, dim=order.index(axis.dim)), *node.args[1:])


def transpose(node: Node, known: Known) -> RowWise:
    """Swaps two dimensions; of a matrix, its two."""
    axis, ndim = _own(node, known), len(shape_of(node))
    one, other = dims_of(node.args[1:3] or (0, 1), ndim) if ndim > 1 else (0, 0)
    return _arranged(node, axis, replace(axis, dim={one: other, other: one}.get(axis.dim, axis.dim)), *node.args[1:])


def unsqueeze(node: Node, known: Known) -> RowWise:
    """Adds a dimension of size 1."""
    axis = _own(node, known)
    (new,) = dims_of(node.args[1], len(shape_of(node)))
    return _arranged(node, axis, replace(axis, dim=axis.dim + (new <= axis.dim)), *node.args[1:])


def squeeze(node: Node, known: Known) -> RowWise:
    """Takes away dimensions of size 1; that of the rows has this size in a piece of one row, and stays."""
    axis, shape = _own(node, known), shape_of(node.args[0])
    named = dims_of(node.args[1], len(shape)) if len(node.args) > 1 else range(len(shape))
    if axis.dim in named:
        raise CannotCut("would take away the dimension of a single row")
    gone = sum(shape[dim] == 1 for dim in named if dim < axis.dim)
    return _arranged(node, axis, replace(axis, dim=axis.dim - gone), *node.args[1:])


def take(node: Node, known: Known) -> RowWise:
    """A slice along another dimension; one that takes all of a dimension takes all rows of a piece, too."""
    axis = _own(node, known)
    (dim,) = dims_of(argument(node, "dim", 0), len(shape_of(node.args[0])))
    if dim == axis.dim:
        if shape_of(node) != shape_of(node.args[0]):
            raise CannotCut(f"{TAKES}some of the rows")
        return _arranged(node, axis, axis, dim, 0, 2**63 - 1)
    return _arranged(node, axis, axis, *node.args[1:])


def select(node: Node, known: Known) -> RowWise:
    """One entry of another dimension, which goes."""
    axis = _own(node, known)
    (dim,) = dims_of(node.args[1], len(shape_of(node.args[0])))
    if dim == axis.dim:
        raise CannotCut(f"{TAKES}one of the rows")
    return _arranged(node, axis, replace(axis, dim=axis.dim - (dim < axis.dim)), *node.args[1:])


def split(node: Node, known: Known) -> RowWise:
    """Parts along another dimension; `unbind` takes that dimension away."""
    axis = _own(node, known)
    (dim,) = dims_of(argument(node, "dim", 0), len(shape_of(node.args[0])))
    if dim == axis.dim:
        raise CannotCut("parts the rows")
    gone = "unbind" in str(node.target) and dim < axis.dim
    parts: Any = node.meta["val"]
    return _arranged(node, axis, (replace(axis, dim=axis.dim - gone),) * len(parts), *node.args[1:])


def getitem(node: Node, known: Known) -> RowWise:
    """One of an operator's results."""
    source, position = node.args
    axes = known.axes[source]  # type: ignore[index]
    axis = axes[position] if isinstance(axes, tuple) else None  # type: ignore[index]
    if axis is None:
        raise CannotCut("is a result that all rows share")
    return RowWise(axis, (Rows(source, None), position), {}, arranges=True)  # type: ignore[arg-type]


def cat(node: Node, known: Known) -> RowWise:
    """Joins tensors along another dimension; along that of the rows, what it joins to them must be empty."""
    tensors: Sequence[Any] = node.args[0]  # type: ignore[assignment]
    ndim = len(shape_of(node))
    (dim,) = dims_of(node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0), ndim)
    axis = only({found for tensor in tensors if (found := known.axis(tensor))})
    if dim == axis.dim and sum(bool(math.prod(shape_of(tensor))) for tensor in tensors) > 1:
        raise CannotCut("appends rows to others")
    parts = [Rows(t, axis) if known.axis(t) or (dim != axis.dim and len(shape_of(t)) == ndim) else t for t in tensors]
    return RowWise(axis, (parts, *node.args[1:]), node.kwargs)


def stack(node: Node, known: Known) -> RowWise:
    """Joins tensors along a new dimension."""
    tensors: Sequence[Any] = node.args[0]  # type: ignore[assignment]
    (dim,) = dims_of(node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0), len(shape_of(node)))
    axis = only({found for tensor in tensors if (found := known.axis(tensor))})
    parts = [Rows(tensor, axis) for tensor in tensors]
    return RowWise(replace(axis, dim=axis.dim + (dim <= axis.dim)), (parts, *node.args[1:]), node.kwargs)


def other_dims(node: Node, known: Known) -> RowWise:
    """Works along the dimensions that it names (of `dims`) alone: flips or rolls them, say."""
    axis = _own(node, known)
    if axis.dim in dims_of(argument(node, "dims", ()) or (axis.dim,), len(shape_of(node))):
        raise CannotCut("moves the rows")
    return _arranged(node, axis, axis, *node.args[1:])


def pad(node: Node, known: Known) -> RowWise:
    """Adds constants at the ends of the last dimensions, of which two numbers each say how many."""
    axis = _own(node, known)
    amounts: Sequence[int] = node.args[1]  # type: ignore[assignment]
    at = 2 * (len(shape_of(node)) - 1 - axis.dim)
    if any(amounts[at : at + 2]):
        raise CannotCut("adds rows")
    return _arranged(node, axis, axis, *node.args[1:])


def _own(node: Node, known: Known) -> Axis:
    """Return where the first argument's rows are; nothing else may have any."""
    axis = known.axis(node.args[0])
    if axis is None or known.has_rows([node.args[1:], node.kwargs]):
        raise CannotCut("has rows in an argument other than the first")
    return axis


def _arranged(node: Node, axis: Axis, moved: Axes, *others: Any) -> RowWise:
    return RowWise(moved, (Rows(node.args[0], axis), *others), node.kwargs, arranges=True)  # type: ignore[arg-type]


def _sizes(shape: Sequence[int], axis: Axis) -> list[Any]:
    return [Size(axis) if dim == axis.dim else size for dim, size in enumerate(shape)]
