"""Buffers in host memory: torch owns them, nothing is copied that need not be."""

from __future__ import annotations

import torch

from dynamo_genie.errors import ProtocolError
from dynamo_genie.remote_daemon.memory.dtypes import DTYPE_NAME, TORCH_DTYPE, spec_nbytes
from dynamo_genie.remote_daemon.memory.host_memory import HUGE_PAGES_FROM_NBYTES, allocate_host
from dynamo_genie.runtime.wire.tensor import TensorSpec


def check_dense(spec: TensorSpec, nbytes: int) -> None:
    """Refuse a spec whose elements would not exactly fill `nbytes` bytes of memory.

    Raises:
        ProtocolError: The strides leave gaps or overlap, or the size does not match.
    """
    if spec_nbytes(spec) != nbytes or len(spec.shape) != len(spec.stride):
        raise ProtocolError(f"{nbytes} bytes do not hold a {spec.dtype} tensor of shape {spec.shape}")
    expected = 1
    for stride, size in sorted((st, n) for st, n in zip(spec.stride, spec.shape, strict=True) if n != 1):
        if size == 0:
            return
        if stride != expected:
            raise ProtocolError(f"strides {spec.stride} of shape {spec.shape} leave gaps or overlap")
        expected = stride * size


def from_staged(spec: TensorSpec, staged: torch.Tensor) -> torch.Tensor:
    """View a flat uint8 tensor as `spec` says, without a copy."""
    check_dense(spec, staged.numel())
    flat = staged.view(TORCH_DTYPE[spec.dtype])
    return flat.as_strided(spec.shape, spec.stride)


def dense_bytes(tensor: torch.Tensor) -> tuple[TensorSpec, torch.Tensor]:
    """Return the tensor's description and its elements as flat uint8 in memory order, copying only if it must."""
    tensor = tensor.resolve_conj().resolve_neg()
    if not is_dense(tensor):
        tensor = tensor.contiguous()
    spec = TensorSpec(DTYPE_NAME[tensor.dtype], tuple(tensor.shape), tuple(tensor.stride()))
    if tensor.numel() == 0:
        return spec, torch.empty(0, dtype=torch.uint8, device=tensor.device)
    return spec, tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)


def is_dense(tensor: torch.Tensor) -> bool:
    """Whether the elements fill their span of memory without gaps or overlap."""
    return bool(tensor.is_contiguous() or torch.ops.aten.is_non_overlapping_and_dense.default(tensor))


def check_patch(tensor: torch.Tensor, offset: int, staged: torch.Tensor) -> torch.Tensor:
    """Return the bytes of a dense tensor, of which some are to be overwritten.

    Raises:
        ProtocolError: There are not so many.
    """
    _, flat = dense_bytes(tensor)
    if offset + staged.numel() > flat.numel():
        raise ProtocolError(f"patch of {staged.numel()} bytes at {offset} exceeds {flat.numel()} bytes")
    return flat


class HostBufferStore:
    """`BufferStore` in host memory."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    def from_bytes(self, spec: TensorSpec, data: bytes) -> torch.Tensor:
        """See `BufferStore`. Copies, because the message's memory is read-only and unaligned."""
        return from_staged(spec, self.bytes_of(data))

    @staticmethod
    def bytes_of(data: bytes) -> torch.Tensor:
        """Return a private copy of bytes as a flat uint8 tensor, aligned for any dtype."""
        staged = torch.empty(len(data), dtype=torch.uint8)
        if data:
            staged.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        return staged

    def adopt(self, spec: TensorSpec, staged: torch.Tensor) -> torch.Tensor:
        """See `BufferStore`. The upload's memory becomes the tensor's."""
        return from_staged(spec, staged)

    def empty(self, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        """See `BufferStore`."""
        return torch.empty(shape, dtype=dtype)

    def synchronize(self) -> None:
        """See `BufferStore`. Nothing is launched: operators are through when they return."""

    def reclaim(self) -> None:
        """See `BufferStore`. Host memory has one allocator."""

    def to_host(self, tensor: torch.Tensor) -> tuple[TensorSpec, memoryview]:
        """See `BufferStore`."""
        spec, flat = dense_bytes(tensor)
        if flat.numel() < HUGE_PAGES_FROM_NBYTES:
            return spec, memoryview(flat.numpy().tobytes())
        return spec, allocate_host(flat.numel()).copy_(flat).numpy().data

    def patch(self, tensor: torch.Tensor, offset: int, staged: torch.Tensor) -> None:
        """See `BufferStore`."""
        flat = check_patch(tensor, offset, staged)
        flat[offset : offset + staged.numel()].copy_(staged)
