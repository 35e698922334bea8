"""The worker's table of dtypes: wire name to torch dtype and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import torch

from dynamo_genie.runtime.wire.tensor import DTYPES, Dtype, TensorSpec

TORCH_DTYPE: Mapping[str, torch.dtype] = MappingProxyType(
    {name: getattr(torch, name) for name in DTYPES if hasattr(torch, name)}
)
DTYPE_NAME: Mapping[torch.dtype, Dtype] = MappingProxyType(
    {TORCH_DTYPE[name]: name for name in DTYPES if name in TORCH_DTYPE}
)


def spec_nbytes(spec: TensorSpec) -> int:
    """Bytes of the elements of a dense tensor."""
    return math.prod(spec.shape) * TORCH_DTYPE[spec.dtype].itemsize


def spec_of(tensor: torch.Tensor) -> TensorSpec:
    """Describe a tensor by its own dtype, shape and strides (expanded ones included)."""
    return TensorSpec(DTYPE_NAME[tensor.dtype], tuple(tensor.shape), tuple(tensor.stride()))
