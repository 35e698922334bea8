"""Operators of the fixed form of a decode step: caches with room behind their rows, and a count on the device.

Shapes: `whole` [batch, heads, capacity, head_dim] is all of a cache's arena; its first `count` rows (its last dimension
but one) count, what lies behind is finite. `counts` [n] int64 holds a count for each cache, on the same device.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from dynamo_genie.remote_daemon.operators.attention import attend_by_torch

Attend: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor, "float | None"], "tuple[Tensor, Tensor | None]"]
"""Returns what `genie.attention` returns of query, key, value, rows that count and scale."""

ROWS = -2
"""The dimension along which caches grow: that of the keys in attention."""

_FLASH_DTYPES = frozenset({torch.float16, torch.bfloat16})
"""What the flash kernels behind `varlen_attn` take."""


def append_rows(whole: Tensor, new: Tensor, counts: Tensor, index: int) -> Tensor:
    """Write `new` [batch, heads, rows, head_dim] behind the rows that count, and return `whole`."""
    if not _rows_of(new):
        return whole
    rows = counts[index] + torch.arange(_rows_of(new), device=new.device)
    return whole.index_copy_(ROWS, rows, new.to(whole.dtype))


def _rows_of(new: Tensor) -> int:
    """Return how many rows there are; `cat` skips an empty tensor of one dimension."""
    return 0 if new.dim() == 1 else new.size(ROWS)


def add_count(tensor: Tensor, counts: Tensor, index: int) -> Tensor:
    """Return what adding a Python number returns, with the number on the device."""
    count = counts[index]
    if tensor.is_floating_point():  # a 0-dimensional operand is rounded to half precision first, a number is not
        wide = torch.promote_types(tensor.dtype, torch.float32)
        return (tensor.to(wide) + count.to(wide)).to(tensor.dtype)
    return tensor + (count if tensor.dtype == torch.bool else count.to(tensor.dtype))


def attend_with(attend: Attend) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """Return the operator that takes the place of an attention whose keys and values are growing caches."""

    def run(
        query: Tensor, key: Tensor, value: Tensor, new: Tensor, counts: Tensor, index: int, scale: float | None
    ) -> tuple[Tensor, Tensor | None]:
        return attend(query, key, value, counts[index] + _rows_of(new), scale)

    return run


def attend_masked(
    query: Tensor, key: Tensor, value: Tensor, used: Tensor, scale: float | None
) -> tuple[Tensor, Tensor | None]:
    """Attend to the rows that count and give the others no weight."""
    seen = torch.arange(key.size(ROWS), device=key.device) < used
    if query.device.type != "cpu":
        return attend_by_torch(query, key, value, seen.view(1, 1, 1, -1), False, scale), None
    mask = torch.zeros(seen.shape, dtype=query.dtype).masked_fill(~seen, -math.inf)
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
    found: tuple[Tensor, Tensor] = kernel(query, key, value, attn_mask=mask.view(1, 1, 1, -1), scale=scale)
    return found


def attend_varlen(varlen: Callable[..., Any]) -> Attend:
    """Return an `Attend` that reads the rows that count and no others, where `varlen` can.

    Args:
        varlen: `torch.nn.attention.varlen.varlen_attn`: sequences one behind the other, [rows, heads, head_dim], whose
            lengths are tensors. It knows batches of one only as views of an arena, and half precision only.
    """

    def attend(
        query: Tensor, key: Tensor, value: Tensor, used: Tensor, scale: float | None
    ) -> tuple[Tensor, Tensor | None]:
        if query.dtype not in _FLASH_DTYPES or query.size(0) != 1:
            return attend_masked(query, key, value, used, scale)
        rows, capacity = query.size(ROWS), key.size(ROWS)
        whole_query, whole_key = (
            torch.arange(2, dtype=torch.int32, device=query.device) * length for length in (rows, capacity)
        )
        packed = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
        output = varlen(
            *packed, whole_query, whole_key, rows, capacity,
            scale=scale, enable_gqa=query.size(1) != key.size(1), seqused_k=used.to(torch.int32).view(1),
        )  # fmt: skip
        return output.transpose(0, 1).unsqueeze(0), None

    return attend


def attend_on(device: torch.device) -> Attend:
    """Return how attention with a count is computed on a device: by torch's kernel where this torch has it."""
    if device.type != "cuda":
        return attend_masked
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return attend_masked
    return attend_varlen(varlen_attn) if "seqused_k" in inspect.signature(varlen_attn).parameters else attend_masked
