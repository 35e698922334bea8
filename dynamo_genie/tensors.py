"""Tensors as both sides describe and send them: dtypes, density, `TensorSpec`s, and memory as bytes and back."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch

from dynamo_genie.errors import ProtocolError, QuotaExceeded
from dynamo_genie.runtime.wire.tensor import DTYPES, MAX_RANK, Dtype, TensorSpec
from dynamo_genie.torch_internals.tensors import is_zeros_without_memory

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


# --- how elements lie ------------------------------------------------------------------------------------


def is_dense(shape: Sequence[int], stride: Sequence[int]) -> bool:
    """Say whether these strides visit each element of one solid block of memory exactly once."""
    if 0 in shape:
        return True
    expected = 1
    for step, size in sorted((step, size) for step, size in zip(stride, shape, strict=True) if size != 1):
        if step != expected:
            return False
        expected *= size
    return True


def lies_dense(tensor: torch.Tensor) -> bool:
    """Say whether a tensor's elements fill one block of memory as they are: no gaps, nothing to be carried out."""
    if is_zeros_without_memory(tensor) or tensor.is_conj() or tensor.is_neg():
        return False
    return tensor.is_contiguous() or is_dense(tensor.shape, tensor.stride())


def span_numel(shape: Sequence[int], stride: Sequence[int]) -> int:
    """Return how many elements there are from the first to the last in memory, holes included."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))


def dense_form(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor itself when its elements fill one block of memory as they are, else a contiguous copy.

    Dense tensors keep their strides (a transposed weight travels transposed). Expanded, sliced and overlapping ones are
    copied; lazy conjugation and negation are carried out, and zeros that autograd gave no memory get some.
    """
    if is_zeros_without_memory(tensor):
        return tensor.detach().clone()
    plain = tensor.detach().resolve_conj().resolve_neg() if tensor.is_conj() or tensor.is_neg() else tensor
    return plain if plain.is_contiguous() or is_dense(plain.shape, plain.stride()) else plain.detach().contiguous()


def dense_for_wire(tensor: torch.Tensor) -> torch.Tensor:
    """Return the `dense_form` of a CPU tensor; `TypeError` for any other."""
    require_cpu(tensor)
    return dense_form(tensor)


def require_cpu(tensor: torch.Tensor) -> None:
    """Raise `TypeError` unless the tensor's elements lie in this process's memory."""
    if tensor.device.type != "cpu" or tensor.layout is not torch.strided:
        raise TypeError(
            f"expected a strided CPU tensor, got layout {tensor.layout} on {tensor.device}; move it with .to('cpu')"
        )


# --- specs -----------------------------------------------------------------------------------------------


def spec_of(tensor: torch.Tensor) -> TensorSpec:
    """Describe a tensor by its own dtype, shape and strides; what travels with its bytes is dense.

    Raises:
        QuotaExceeded: It has more dimensions than a message may name; the other side would refuse the whole batch.
    """
    if tensor.dim() > MAX_RANK:
        raise QuotaExceeded(f"a tensor of {tensor.dim()} dimensions; at most {MAX_RANK} can be sent, reshape it first")
    return TensorSpec(wire_dtype(tensor.dtype), tuple(tensor.shape), tensor.stride())


def spec_nbytes(spec: TensorSpec) -> int:
    """Return how many bytes the elements of a dense tensor of this spec have."""
    return math.prod(spec.shape) * TORCH_DTYPES[spec.dtype].itemsize


def require_dense(spec: TensorSpec, nbytes: int | None = None) -> None:
    """Refuse a spec whose elements would not exactly fill one block of memory, one of `nbytes` where that is given.

    Raises:
        ProtocolError: The strides leave gaps or overlap, or the size does not match.
    """
    if len(spec.shape) != len(spec.stride) or not is_dense(spec.shape, spec.stride):
        raise ProtocolError(f"tensor with shape {spec.shape} and strides {spec.stride} is not dense")
    if nbytes is not None and spec_nbytes(spec) != nbytes:
        raise ProtocolError(f"{nbytes} bytes do not hold a {spec.dtype} tensor of shape {spec.shape}")


def empty_like_spec(spec: TensorSpec) -> torch.Tensor:
    """Return an uninitialised CPU tensor of this spec, to be filled through `tensor_bytes(..., writable=True)`."""
    require_dense(spec)
    return torch.empty_strided(spec.shape, spec.stride, dtype=TORCH_DTYPES[spec.dtype], device="cpu")


# --- memory as bytes -------------------------------------------------------------------------------------


def flat_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Return the memory of a dense tensor as a flat uint8 tensor on the same device, without a copy."""
    if tensor.numel() == 0:
        return torch.empty(0, dtype=torch.uint8, device=tensor.device)
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)


def from_flat_bytes(flat: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    """View a flat uint8 tensor as a dense spec says, without a copy; `ProtocolError` where the two do not fit."""
    require_dense(spec, flat.numel())
    return flat.view(TORCH_DTYPES[spec.dtype]).as_strided(spec.shape, spec.stride)


def tensor_bytes(tensor: torch.Tensor, *, writable: bool = False) -> memoryview:
    """Return the memory of a dense CPU tensor as bytes, without a copy; the view keeps the memory alive."""
    require_cpu(tensor)
    assert is_dense(tensor.shape, tensor.stride()), "take the bytes of dense_for_wire(tensor) instead"
    assert not tensor.is_conj(), "take the bytes of dense_for_wire(tensor) instead"
    assert not tensor.is_neg(), "take the bytes of dense_for_wire(tensor) instead"
    nbytes = tensor.numel() * tensor.element_size()
    if nbytes == 0:
        return memoryview(bytearray() if writable else b"")
    block = (ctypes.c_char * nbytes).from_address(tensor.data_ptr())
    block.storage = tensor.untyped_storage()  # type: ignore[attr-defined] # the storage, since `tensor.data = ...` swaps it
    view = memoryview(block).cast("B")
    return view if writable else view.toreadonly()
