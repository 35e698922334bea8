"""Kernels that round by place: the last entries of a tensor are computed by another path than the others.

CPU kernels take entries by vectors, and what is left at the end one by one, with other functions of the mathematical
library: `silu` of one number is two numbers, by where it stands. Pieces end where the whole goes on. So a piece must
begin and end at whole vectors; what threads share out besides, the comparison of kernels finds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.fx import Node

from dynamo_genie.passes.rows.pieces import Piece
from dynamo_genie.passes.rows.shapes import argument
from dynamo_genie.passes.rows.template import Axis, RowWise
from dynamo_genie.torch_internals.operators import OpOverload

VECTOR = 64
"""Entries that the vectorized loops of PyTorch take at once, at most: two vectors of 512 bits of bfloat16."""

_EXACT = frozenset(
    "mul div neg relu abs where clamp clamp_min clamp_max maximum minimum masked_fill floor ceil round trunc sqrt sign "
    "eq ne lt le gt ge logical_and logical_or logical_not logical_xor isnan isinf fill threshold hardtanh sgn copysign "
    "bitwise_and bitwise_or bitwise_not bitwise_xor".split()
)
"""Operators whose result IEEE 754 defines, so that no path rounds it otherwise."""


def rounds_by_place(node: Node) -> bool:
    """Say whether an operator may give one number two results, by where it stands in a tensor."""
    target, value = node.target, node.meta.get("val")
    if not isinstance(target, OpOverload) or torch.Tag.pointwise not in target.tags:
        return False
    if not isinstance(value, torch.Tensor) or not (value.dtype.is_floating_point or value.dtype.is_complex):
        return False
    name = target.overloadpacket.__name__
    if name in ("add", "sub", "rsub"):
        return bool(argument(node, "alpha", 1) != 1)
    return name not in _EXACT


def is_misplaced(node: Node, template: RowWise, rows: int, pieces: Sequence[Piece]) -> bool:
    """Say whether pieces of what an operator makes begin within a vector, or end there before the whole does."""
    axis, value = template.axes, node.meta["val"]
    if not rounds_by_place(node) or not isinstance(axis, Axis):
        return False
    step = value.stride(axis.dim) * axis.inner  # entries from one row to the next
    places = [piece.begin * step for piece in pieces]
    if value.numel() > rows * step:  # rows repeat, strip after strip
        places += [rows * step, *(piece.rows * step for piece in pieces)]
    return any(place % VECTOR for place in places)
