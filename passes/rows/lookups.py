"""Rules of lookups: rows of a table, chosen by indices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.fx import Node

from dynamo_genie.passes.rows.shapes import dims_of, shape_of
from dynamo_genie.passes.rows.template import CannotCut, Known, Rows, RowWise


def embedding(node: Node, known: Known) -> RowWise:
    """(table, indices): an entry of the table for each index."""
    table, indices = node.args[:2]
    axis = known.axis(indices)
    if axis is None or known.has_rows(table):
        raise CannotCut("looks up in the rows")
    return RowWise(axis, (table, Rows(indices, axis), *node.args[2:]), node.kwargs)  # type: ignore[arg-type]


def index(node: Node, known: Known) -> RowWise:
    """x[..., indices, ...] with one tensor of indices: they stand where the dimension was that they choose from."""
    table, indices = node.args[0], list(node.args[1])  # type: ignore[arg-type]
    given = [position for position, each in enumerate(indices) if each is not None]
    if len(given) != 1:
        raise CannotCut("is indexed along several dimensions")
    (place,) = given
    if indices[place].meta["val"].dtype in (torch.bool, torch.uint8):
        raise CannotCut("takes as many entries as a mask has true ones")
    chosen, axis = known.axis(indices[place]), known.axis(table)
    ndim = len(shape_of(indices[place]))
    if chosen is not None and axis is None:
        parts: list[Any] = [*indices[:place], Rows(indices[place], chosen), *indices[place + 1 :]]
        return RowWise(replace(chosen, dim=place + chosen.dim), (table, parts), node.kwargs)
    if axis is None or chosen is not None or axis.dim == place:
        raise CannotCut("looks up in the rows")
    moved = replace(axis, dim=axis.dim + (ndim - 1 if axis.dim > place else 0))
    return RowWise(moved, (Rows(table, axis), indices), node.kwargs)  # type: ignore[arg-type]


def index_select(node: Node, known: Known) -> RowWise:
    """(x, dim, indices), of which either has rows."""
    table, dim, indices = node.args[:3]
    (place,) = dims_of(dim, len(shape_of(table)))
    chosen, axis = known.axis(indices), known.axis(table)
    if chosen is not None and axis is None:
        return RowWise(replace(chosen, dim=place), (table, place, Rows(indices, chosen)), node.kwargs)  # type: ignore[arg-type]
    if axis is None or chosen is not None or axis.dim == place:
        raise CannotCut("looks up in the rows")
    return RowWise(axis, (Rows(table, axis), place, indices), node.kwargs)  # type: ignore[arg-type]


def gather(node: Node, known: Known) -> RowWise:
    """(x, dim, indices) of one shape but along `dim`: every other place is its own."""
    table, dim, indices = node.args[:3]
    shape: Sequence[int] = shape_of(table)
    (place,) = dims_of(dim, len(shape))
    axis = known.axis(table) or known.axis(indices)
    if axis is None or axis.dim == place or {known.axis(table), known.axis(indices)} - {None, axis}:
        raise CannotCut("looks up in the rows")
    if shape[axis.dim] != shape_of(indices)[axis.dim]:
        raise CannotCut("looks up some of the rows")
    return RowWise(axis, (Rows(table, axis), place, Rows(indices, axis)), node.kwargs)  # type: ignore[arg-type]
