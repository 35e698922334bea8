"""The signature of a call, for engines that specialise: the layouts of tensors and the values of numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torch

InputLayout: TypeAlias = "tuple[torch.Size, tuple[int, ...], torch.dtype]"
Signature: TypeAlias = tuple[Any, ...]


def layout_of(tensor: torch.Tensor) -> InputLayout:
    """Return shape, strides and dtype."""
    return tensor.shape, tensor.stride(), tensor.dtype


def stands_for_others(tensor: torch.Tensor) -> bool:
    """Whether a tensor stands for the conjugates or negatives of what its memory holds; its layout does not tell."""
    return tensor.is_conj() or tensor.is_neg()


def signature_of(inputs: Sequence[Any], positions: Iterable[int]) -> Signature:
    """Return what inputs look like: equal for calls that one compiled form serves."""
    return tuple(_look(inputs[position]) for position in positions)


def _look(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return layout_of(value)
    # 1, 1.0 and True are equal, and so are 0.0 and -0.0, and programs tell them apart; NaN differs from itself
    return value.hex() if isinstance(value, float) else (type(value), value)
