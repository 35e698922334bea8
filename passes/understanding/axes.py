"""Axes of tensors, followed through reshaping: which dimension was the sequence before this view?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from dynamo_genie.passes.graphs.semantics import sizes_of

aten = torch.ops.aten

_VIEWS: frozenset[Any] = frozenset({aten.view.default, aten._unsafe_view.default, aten.reshape.default})
_SQUEEZES: frozenset[Any] = frozenset({aten.squeeze.dim, aten.squeeze.dims})
_SELECTS: frozenset[Any] = frozenset({aten.select.int, aten.unbind.int})


def shape_of(node: Node) -> tuple[int, ...] | None:
    """Return a tensor's sizes at the example's values; None for what is no tensor, or has sizes that depend on data."""
    value = node.meta.get("val")
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], torch.Tensor):
        value = value[0]  # the parts of a split have the rank of the whole
    return sizes_of(value) if isinstance(value, torch.Tensor) else None


def length_of(node: Node, axis: int | None) -> int | None:
    """Return the size of one dimension, None where it is not known."""
    shape = shape_of(node)
    return shape[axis] if shape is not None and axis is not None and -len(shape) <= axis < len(shape) else None


def axis_before(node: Node, source: Node, axis: int | None) -> int | None:
    """Return which dimension of `source`, an operand of `node`, dimension `axis` of `node` comes from.

    None where it comes from several, from none, or it cannot be told.
    """
    before, after = shape_of(source), shape_of(node)
    if axis is None or before is None or after is None:
        return None
    target: Any = node.target
    if target in _VIEWS:
        return _through_view(before, after, axis)
    if target is aten.permute.default:
        return int(node.args[1][axis]) % len(before)  # type: ignore[index,arg-type]
    if target is aten.transpose.int:
        return _swapped(axis, *(_dim(node, position, len(before)) for position in (1, 2)))
    if target is aten.t.default:
        return _swapped(axis, 0, len(before) - 1)
    if target is aten.unsqueeze.default:
        return _without(axis, _dim(node, 1, len(after)))
    if target in _SELECTS:
        dim = _dim(node, 1, len(before))
        return axis + (axis >= dim)
    if target in _SQUEEZES:
        return _unsqueezed(axis, node, len(before))
    return _aligned(before, after, axis)


def _aligned(before: Sequence[int], after: Sequence[int], axis: int) -> int | None:
    """Broadcasting lines dimensions up from the right; one that is repeated comes from nowhere."""
    moved = axis - (len(after) - len(before))
    if moved < 0:
        return None
    return None if before[moved] == 1 and after[axis] > 1 else moved


def _through_view(before: Sequence[int], after: Sequence[int], axis: int) -> int | None:
    """A dimension survives a view when as many elements lie to its left, and it is as long, as before."""
    offset = math.prod(after[:axis])
    left = 1
    for dim, size in enumerate(before):
        if left == offset and size == after[axis]:
            return dim
        left *= size
    return None


def _dim(node: Node, position: int, rank: int) -> int:
    value = node.args[position] if position < len(node.args) else 0
    assert isinstance(value, int)
    return value % rank


def _swapped(axis: int, one: int, other: int) -> int:
    return {one: other, other: one}.get(axis, axis)


def _without(axis: int, dim: int) -> int | None:
    return None if axis == dim else axis - (axis > dim)


def _unsqueezed(axis: int, node: Node, rank: int) -> int:
    dims = node.args[1]
    removed = {int(dim) % rank for dim in (dims if isinstance(dims, (list, tuple)) else (dims,))}  # type: ignore[arg-type]
    kept = [dim for dim in range(rank) if dim not in removed]
    return kept[axis] if axis < len(kept) else axis
