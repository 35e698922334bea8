"""Whether two tensors of one storage have an element in common."""

from __future__ import annotations

import torch

from dynamo_genie.remote_daemon.memory.host_pool import TensorLayout
from dynamo_genie.tensors import span_numel

MAX_COMPARED_NBYTES = 64 << 20
"""Memory in which elements are compared; beyond it, tensors overlap where their first and last elements say so."""


def layouts_overlap(one: TensorLayout, other: TensorLayout) -> bool:
    """Whether writing to a tensor that lies like `one` may change what one reads that lies like `other`."""
    first, last = _span(one)
    begin, end = _span(other)
    low, high = max(first, begin), min(last, end)
    if low >= high:
        return False
    start, stop = min(first, begin), max(last, end)
    if stop - start > MAX_COMPARED_NBYTES:
        return True
    marked = torch.zeros(stop - start, dtype=torch.bool)
    _bytes_of(one, marked, start).fill_(True)
    return bool(_bytes_of(other, marked, start).any())


def _span(layout: TensorLayout) -> tuple[int, int]:
    """Return where the first byte of a tensor is in its storage, and where the last one has been passed."""
    begin = layout.offset * layout.dtype.itemsize
    return begin, begin + span_numel(layout.shape, layout.stride) * layout.dtype.itemsize


def _bytes_of(layout: TensorLayout, memory: torch.Tensor, start: int) -> torch.Tensor:
    """Return the view of a memory's bytes, counted from `start`, in which a tensor lies."""
    size = layout.dtype.itemsize
    strides = [step * size for step in layout.stride]
    return memory.as_strided((*layout.shape, size), (*strides, 1), layout.offset * size - start)
