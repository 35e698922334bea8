"""The operators that read caches in arenas give the same bits as on contiguous tensors, over many shapes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from dynamo_genie.remote_daemon.memory.kv_arena import ROW_ALIGNMENT_NBYTES, KVArenas
from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget
from dynamo_genie.remote_daemon.operators.arena_plan import READERS
from dynamo_genie.remote_daemon.operators.resolved_program import unlike_products

aten = torch.ops.aten
HEAD_DIMS = (4, 8, 12, 16, 20, 24, 32, 40, 48, 64, 72, 80, 96, 100, 112, 128, 160, 256)
LENGTHS = (2, 5, 17, 33, 129, 511)


def _in_arena(tensor: Tensor, skipped: int) -> Tensor:
    """Return the values of `tensor` in a window that `skipped` tokens precede."""
    arenas = KVArenas(MemoryBudget(1 << 40))
    before = torch.ones(*tensor.shape[:2], skipped, tensor.shape[3]).to(tensor.dtype)
    window = arenas.cat([before, tensor], 2)[:, :, skipped:]
    assert len(arenas) == 1 and torch.equal(window, tensor)
    return window


def _read(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Iterator[tuple[str, Tensor]]:
    batch, heads, length, dim = key.shape
    flat_query = query.reshape(batch * heads, -1, dim)
    scores = torch.softmax(mask.expand(batch, heads, -1, length).reshape(batch * heads, -1, length).float(), -1)
    for name, options in (("plain", {}), ("masked", {"attn_mask": mask})):
        out, logsumexp = aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, **options)
        yield f"genie.attention {name}", out
        yield f"genie.attention {name}, logsumexp", logsumexp
    yield "aten.bmm.default, scores", torch.bmm(flat_query, key.transpose(2, 3).reshape(batch * heads, dim, length))
    yield "aten.bmm.default, values", torch.bmm(scores.to(value.dtype), value.reshape(batch * heads, length, dim))
    yield "aten.bmm.default, left", torch.bmm(key.reshape(batch * heads, length, dim), flat_query.transpose(1, 2))
    yield "aten.mul.Tensor", key * query[:, :, :1]
    yield "aten.clone.default", key.transpose(1, 2).clone()
    yield "aten._to_copy.default", aten._to_copy.default(key, dtype=torch.float64)
    yield "aten.index_select.default", key.index_select(0, torch.tensor([batch - 1, 0]))
    yield "aten.cat.default", torch.cat([key, value], 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_readers_give_the_same_bits_for_a_window(dtype: torch.dtype) -> None:
    seen, unlike = set(), unlike_products(torch.device("cpu"))
    for length in LENGTHS:
        for dim in (dim for dim in HEAD_DIMS if dim * dtype.itemsize % ROW_ALIGNMENT_NBYTES == 0):
            for q_len in (1, 2, 7):
                key, value = (torch.randn(2, 3, length, dim).to(dtype) for _ in range(2))
                query, mask = torch.randn(2, 3, q_len, dim).to(dtype), torch.randn(2, 1, q_len, length).to(dtype)
                windows = _in_arena(key, 1), _in_arena(value, 3)
                expected = _read(query, key, value, mask)
                for (name, one), (_, other) in zip(expected, _read(query, *windows, mask), strict=True):
                    seen.add(name.split()[0].rstrip(","))
                    if name.startswith("aten.bmm") and str(dtype).removeprefix("torch.") in unlike:
                        continue  # such products are never given a window
                    assert torch.equal(one, other), f"{name} of [2, 3, {length}, {dim}], {q_len} queries"
                    assert one.stride() == other.stride(), name
    assert seen == set(READERS), "every operator that may read a window is tried"
