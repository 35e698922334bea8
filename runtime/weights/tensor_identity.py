"""Telling quickly that these are the tensors of last time: same objects, same memory, same layout.

Says nothing of their contents, and keeps none of them alive: whoever uses it must forget a tensor when it dies, since
another may then be born with its id.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import eq
from typing import TypeAlias

import torch

from dynamo_genie.torch_internals.guards import TensorGuards, guard_tensors

Layout: TypeAlias = tuple[int, torch.dtype, tuple[int, ...], tuple[int, ...], bool, bool]
"""Address, dtype, shape, strides, conjugated, negated: what memory a tensor shows, and how it reads it."""


def layout_of(tensor: torch.Tensor) -> Layout:
    return (
        tensor.data_ptr(),
        tensor.dtype,
        tuple(tensor.shape),
        tensor.stride(),
        tensor.is_conj(),
        tensor.is_neg(),
    )


class TensorIdentities:
    """What a list of tensors was when last seen."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._ids = list(map(id, tensors))
        self._addresses = list(map(torch.Tensor.data_ptr, tensors))
        self._layouts = list(map(layout_of, tensors))
        first = {number: position for position, number in reversed(list(enumerate(self._ids)))}
        self._distinct = None if len(first) == len(tensors) else sorted(first.values())
        self._guards = _guards_for(self._only_distinct(tensors))

    def unchanged(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Say whether nothing changed. Fast; a rare False may be spurious (autograd's modes take part in the guard)."""
        return (
            len(tensors) == len(self._ids)
            and all(map(eq, map(id, tensors), self._ids))  # no lists: they would be written beside small weights
            and all(map(eq, map(torch.Tensor.data_ptr, tensors), self._addresses))
            and (self._guards is None or self._guards.check(*self._only_distinct(tensors)))
        )

    def changed(self, tensors: Sequence[torch.Tensor]) -> list[int]:
        """Return the positions that changed. Slow and exact."""
        before = zip(self._ids, self._layouts, strict=True)
        return [
            position
            for position, (tensor, (number, layout)) in enumerate(zip(tensors, before, strict=True))
            if id(tensor) != number or layout_of(tensor) != layout
        ]

    def _only_distinct(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        return tensors if self._distinct is None else [tensors[position] for position in self._distinct]


def _guards_for(tensors: Sequence[torch.Tensor]) -> TensorGuards | None:
    """Dynamo's own guard checks dtype, shape and strides of all tensors at a third of the cost of doing so here."""
    return guard_tensors(tensors) if tensors else None
