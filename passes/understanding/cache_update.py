"""Updates of a KV cache, from one value to the next: by which operator, along which dimension, in a window or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Node

from dynamo_genie.passes.understanding.axes import shape_of
from dynamo_genie.passes.understanding.lineage import CATS, SCATTERS, history

aten = torch.ops.aten

Entries = Mapping[Node, int | None]
"""Nodes that hold entries of a cache, each with the dimension that counts positions there."""


def find_update(made_from: Entries, before: Node | None) -> Node | None:
    """Return the operator nearest to the result that puts old and new entries together."""
    return next((node for node, axis in made_from.items() if _is_update(node, axis, before)), None)


def is_windowed(made_from: Entries) -> bool:
    """Say whether entries leave: the tensor is rolled, or cut along its positions."""
    return any(
        node.target is aten.roll.default or (node.target is aten.slice.Tensor and _dim_of(node, 1) == axis is not None)
        for node, axis in made_from.items()
    )


def sequence_axis(after: Node, entries: Entries) -> int | None:
    """Return the dimension of `after`, which carries some of the entries, that counts their positions."""
    if after in entries:
        return entries[after]
    rank = len(after.meta["val"].shape)
    return next((axis for axis in range(rank) if _meets(history(after, axis), entries)), None)


def same_but_length(one: Node, other: Node) -> bool:
    """Say whether two tensors have one dtype, and sizes that differ in one dimension at most."""
    left, right = shape_of(one), shape_of(other)
    if left is None or right is None or len(left) != len(right) or one.meta["val"].dtype is not other.meta["val"].dtype:
        return False
    return len(left) > 1 and sum(a != b for a, b in zip(left, right, strict=True)) <= 1


def _meets(found: Entries, entries: Entries) -> bool:
    return any(axis is not None and entries.get(node) == axis for node, axis in found.items())


def _is_update(node: Node, axis: int | None, before: Node | None) -> bool:
    target: Any = node.target
    if target in CATS:
        return axis is not None and _dim_of(node, 1) == axis
    if target is aten.where.self:
        return before is not None and before in history(node, axis)
    scatter = SCATTERS.get(target)
    if scatter is None or scatter.axis is None or axis is None:
        return scatter is not None
    return _dim_of(node, scatter.axis) == axis


def _dim_of(node: Node, position: int) -> int:
    dim = node.args[position] if position < len(node.args) else 0
    assert isinstance(dim, int)
    return dim % max(1, len(node.meta["val"].shape))
