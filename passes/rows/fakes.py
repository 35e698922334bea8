"""Fake values with another number of rows: shapes and dtypes for the calls of a piece. Those alike are one object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dynamo_genie.passes.rows.template import Axes, Axis
from dynamo_genie.torch_internals.fake import fake_like


class Fakes:
    """Makes fake tensors, each once: a graph has thousands of calls and some dozens of shapes."""

    def __init__(self) -> None:
        self._made: dict[tuple[Any, ...], torch.Tensor] = {}

    def resized(self, value: Any, axes: Axes | None, rows: int) -> Any:
        """Return what a call gives for so many rows, from what it gives for all."""
        if isinstance(axes, tuple):
            found = (self.resized(each, axis, rows) for each, axis in zip(value, axes, strict=True))
            return type(value)(found)
        if axes is None or not isinstance(value, torch.Tensor):
            return value
        return self.with_size(value, axes, axes.size(rows))

    def with_size(self, value: torch.Tensor, axis: Axis, size: int) -> torch.Tensor:
        """Return a tensor with another size along a dimension, dense in the order in which the dimensions lie."""
        shape = [size if dim == axis.dim else old for dim, old in enumerate(value.shape)]
        return self._fake(value, shape, self.outermost_first(value)[::-1])

    def outermost_first(self, value: torch.Tensor) -> list[int]:
        """Return the dimensions of a tensor as they lie in memory; those of size 1 lie anywhere."""
        dims, strides = range(value.ndim), value.stride()
        wide = iter(sorted((d for d in dims if value.shape[d] != 1), key=lambda dim: (-strides[dim], dim)))
        return [dim if value.shape[dim] == 1 else next(wide) for dim in dims]

    def apart(self, value: torch.Tensor, axis: Axis) -> torch.Tensor:
        """Return a tensor in whose shape the blocks of an axis stand apart, as a dimension before that of the rows."""
        dim, size = axis.dim, value.shape[axis.dim] // axis.outer
        shape = [*value.shape[:dim], axis.outer, size, *value.shape[dim + 1 :]]
        step = value.stride(dim)
        return self.strided(value, shape, [*value.stride()[:dim], step * size, step, *value.stride()[dim + 1 :]])

    def narrowed(self, value: torch.Tensor, dim: int, size: int) -> torch.Tensor:
        """Return a view of some of a dimension's entries."""
        return self.strided(value, [*value.shape[:dim], size, *value.shape[dim + 1 :]], value.stride())

    def permuted(self, value: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
        """Return a view with the dimensions in another order."""
        return self.strided(value, [value.shape[dim] for dim in order], [value.stride(dim) for dim in order])

    def dense(self, like: torch.Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return a contiguous tensor of a shape, of the dtype of `like` unless another is wanted."""
        return self._fake(like, shape, list(reversed(range(len(shape)))), dtype)

    def _fake(
        self,
        like: torch.Tensor,
        shape: Sequence[int],
        innermost_first: Sequence[int],
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        strides, step = [0] * len(shape), 1
        for dim in innermost_first:
            strides[dim] = step
            step *= max(shape[dim], 1)
        return self.strided(like, shape, strides, dtype)

    def strided(
        self, like: torch.Tensor, shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """Return a tensor of a shape and strides, on the device of `like`."""
        key = tuple(shape), tuple(strides), dtype or like.dtype, like.device
        if key not in self._made:
            self._made[key] = fake_like(like, shape, strides, dtype=dtype)
        return self._made[key]
