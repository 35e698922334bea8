"""The memory behind CPU tensors: as bytes for the wire, as a `TensorSpec`, and back. Knows nothing of sockets."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from types import MappingProxyType

import torch

from dynamo_genie.errors import ProtocolError
from dynamo_genie.runtime.wire.tensor import DTYPES, Dtype, TensorSpec

TORCH_DTYPES: Mapping[str, torch.dtype] = MappingProxyType({name: getattr(torch, name) for name in DTYPES})
"""Wire name to torch dtype."""

WIRE_DTYPES: Mapping[torch.dtype, Dtype] = MappingProxyType({TORCH_DTYPES[name]: name for name in DTYPES})
"""Torch dtype to wire name."""


def wire_dtype(dtype: torch.dtype) -> Dtype:
    """Return the wire name of a dtype; `TypeError` names the dtypes that can travel."""
    name = WIRE_DTYPES.get(dtype)
    if name is None:
        raise TypeError(f"tensors of dtype {dtype} cannot be sent to a daemon; convert to one of: {', '.join(DTYPES)}")
    return name


def is_dense(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Say whether these strides visit each element of one solid block of memory exactly once."""
    if 0 in shape:
        return True
    expected = 1
    for step, size in sorted((step, size) for step, size in zip(stride, shape, strict=True) if size != 1):
        if step != expected:
            return False
        expected *= size
    return True


def spec_of(tensor: torch.Tensor) -> TensorSpec:
    """Describe a dense tensor as it travels."""
    shape, stride = tuple(tensor.shape), tensor.stride()
    assert is_dense(shape, stride), "send dense_for_wire(tensor) instead"
    return TensorSpec(dtype=wire_dtype(tensor.dtype), shape=shape, stride=stride)


def spec_nbytes(spec: TensorSpec) -> int:
    """Return how many bytes a tensor of this spec has."""
    return math.prod(spec.shape) * TORCH_DTYPES[spec.dtype].itemsize


def dense_for_wire(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor itself when its memory can travel as it lies, else a contiguous copy.

    Dense tensors keep their strides (a transposed weight travels transposed). Expanded, sliced and overlapping ones are
    copied; lazy conjugation and negation are carried out.
    """
    require_cpu(tensor)
    plain = tensor.detach().resolve_conj().resolve_neg() if tensor.is_conj() or tensor.is_neg() else tensor
    return plain if is_dense(tuple(plain.shape), plain.stride()) else plain.detach().contiguous()


def tensor_bytes(tensor: torch.Tensor, *, writable: bool = False) -> memoryview:
    """Return the memory of a dense CPU tensor as bytes, without a copy; the view keeps the memory alive."""
    require_cpu(tensor)
    assert is_dense(tuple(tensor.shape), tensor.stride()), "take the bytes of dense_for_wire(tensor) instead"
    assert not tensor.is_conj(), "take the bytes of dense_for_wire(tensor) instead"
    assert not tensor.is_neg(), "take the bytes of dense_for_wire(tensor) instead"
    nbytes = tensor.numel() * tensor.element_size()
    if nbytes == 0:
        return memoryview(bytearray() if writable else b"")
    block = (ctypes.c_char * nbytes).from_address(tensor.data_ptr())
    block.storage = tensor.untyped_storage()  # type: ignore[attr-defined] # the storage, since `tensor.data = ...` swaps it
    view = memoryview(block).cast("B")
    return view if writable else view.toreadonly()


def empty_like_spec(spec: TensorSpec) -> torch.Tensor:
    """Return an uninitialised CPU tensor of this spec, to be filled through `tensor_bytes(..., writable=True)`."""
    if len(spec.shape) != len(spec.stride) or not is_dense(spec.shape, spec.stride):
        raise ProtocolError(f"tensor with shape {spec.shape} and strides {spec.stride} is not dense")
    return torch.empty_strided(spec.shape, spec.stride, dtype=TORCH_DTYPES[spec.dtype], device="cpu")


def require_cpu(tensor: torch.Tensor) -> None:
    """Raise `TypeError` unless the tensor's elements lie in this process's memory."""
    if tensor.device.type != "cpu" or tensor.layout is not torch.strided:
        raise TypeError(
            f"expected a strided CPU tensor, got layout {tensor.layout} on {tensor.device}; move it with .to('cpu')"
        )
