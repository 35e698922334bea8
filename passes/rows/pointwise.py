"""Rules of operators that compute each element from the elements at the same place."""

from __future__ import annotations

from typing import Any

from torch.fx import Node
from torch.fx.node import map_aggregate

from dynamo_genie.passes.rows.shapes import shape_of
from dynamo_genie.passes.rows.template import Axis, CannotCut, Known, Rows, RowWise, nodes_of


def pointwise(node: Node, known: Known) -> RowWise:
    """Tensors are broadcast together, aligned at their last dimensions (NumPy's rule, which is PyTorch's)."""
    ndim = len(shape_of(node))
    found = {
        _shifted(axis, ndim - len(shape_of(source)))
        for source in nodes_of([node.args, node.kwargs])
        if (axis := known.axis(source))
    }
    axis = only(found)
    args, kwargs = map_aggregate((node.args, dict(node.kwargs)), lambda leaf: aligned(leaf, axis, ndim, known))
    return RowWise(axis, args, kwargs)


def only(found: set[Axis]) -> Axis:
    """Return the one place where rows are.

    Raises:
        CannotCut: They are in several.
    """
    if len(found) != 1:
        raise CannotCut("has rows along several dimensions")
    return found.pop()


def aligned(leaf: Any, axis: Axis, ndim: int, known: Known) -> Any:
    """Return an operand for a piece: its rows where it has as many as the result, and all of it where it is repeated.

    Args:
        axis: Where the result's rows are.
        ndim: The number of the result's dimensions.
    """
    if not isinstance(leaf, Node):
        return leaf
    shape = shape_of(leaf)
    own = _shifted(axis, len(shape) - ndim)
    if leaf in known.axes:
        if known.axis(leaf) != own:
            raise CannotCut("has an operand with other rows")
        return Rows(leaf, own)
    if own.dim < 0 or shape[own.dim] == 1:
        return leaf
    if shape[own.dim] != own.size(known.rows):
        raise CannotCut("has an operand of another length")
    return Rows(leaf, own)


def _shifted(axis: Axis, by: int) -> Axis:
    return Axis(axis.dim + by, axis.outer, axis.inner)


def first_only(node: Node, known: Known) -> RowWise:
    """Only the first argument is a tensor: a copy, perhaps of another dtype or layout."""
    axis = known.axis(node.args[0])
    if axis is None or known.has_rows([node.args[1:], node.kwargs]):
        raise CannotCut("has rows in an argument other than the first")
    return RowWise(axis, (Rows(node.args[0], axis), *node.args[1:]), node.kwargs, arranges=True)  # type: ignore[arg-type]
