"""Inline tensors: small local tensors that travel inside a message, compressed where that helps."""

from __future__ import annotations

import zlib

import torch

from dynamo_genie.runtime.wire.limits import MAX_INLINE_NBYTES
from dynamo_genie.runtime.wire.tensor import InlineTensor
from dynamo_genie.tensors import dense_for_wire, spec_of, tensor_bytes

PACK_AT_NBYTES = 256
"""Integer and boolean inputs from this size on are compressed: attention masks shrink to almost nothing."""

_PACKABLE = frozenset({torch.int64, torch.int32, torch.bool, torch.uint8})


def inline_tensor(tensor: torch.Tensor) -> InlineTensor | None:
    """Return a small local tensor as it travels inside a message, None when it is too large for that."""
    if tensor.nbytes > MAX_INLINE_NBYTES:
        return None
    dense = dense_for_wire(tensor)
    data = bytes(tensor_bytes(dense))
    if len(data) >= PACK_AT_NBYTES and dense.dtype in _PACKABLE:
        packed = zlib.compress(data, 1)
        if len(packed) < len(data) // 2:
            return InlineTensor(spec_of(dense), packed, packed=True)
    return InlineTensor(spec_of(dense), data)
