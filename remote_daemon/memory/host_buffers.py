"""Buffers in host memory: torch owns them, nothing is copied that need not be."""

from __future__ import annotations

import torch

from dynamo_genie.errors import ProtocolError
from dynamo_genie.remote_daemon.memory.host_memory import HUGE_PAGES_FROM_NBYTES, allocate_host, trim_host_memory
from dynamo_genie.runtime.wire.tensor import TensorSpec
from dynamo_genie.tensors import dense_form, flat_bytes, from_flat_bytes, lies_dense, spec_of


def dense_bytes(tensor: torch.Tensor) -> tuple[TensorSpec, torch.Tensor]:
    """Return the tensor's description and its elements as flat uint8 in memory order, copying only if it must."""
    dense = dense_form(tensor)
    return spec_of(dense), flat_bytes(dense)


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
        return from_flat_bytes(self.bytes_of(data), spec)

    @staticmethod
    def bytes_of(data: bytes) -> torch.Tensor:
        """Return a private copy of bytes as a flat uint8 tensor, aligned for any dtype."""
        staged = torch.empty(len(data), dtype=torch.uint8)
        if data:
            staged.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        return staged

    def adopt(self, spec: TensorSpec, staged: torch.Tensor) -> torch.Tensor:
        """See `BufferStore`. The upload's memory becomes the tensor's."""
        return from_flat_bytes(staged, spec)

    def empty(self, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        """See `BufferStore`."""
        return torch.empty(shape, dtype=dtype)

    def synchronize(self) -> None:
        """See `BufferStore`. Nothing is launched: operators are through when they return."""

    def reclaim(self) -> None:
        """See `BufferStore`. Host memory has one allocator, which keeps what was freed."""
        trim_host_memory()

    def to_host(self, tensor: torch.Tensor) -> tuple[TensorSpec, memoryview]:
        """See `BufferStore`."""
        spec, flat = dense_bytes(tensor)
        if flat.numel() < HUGE_PAGES_FROM_NBYTES:
            return spec, memoryview(flat.numpy().tobytes())
        return spec, allocate_host(flat.numel()).copy_(flat).numpy().data

    def in_place(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """See `BufferStore`."""
        return flat_bytes(tensor.detach()) if lies_dense(tensor) else None

    def patch(self, tensor: torch.Tensor, offset: int, staged: torch.Tensor) -> None:
        """See `BufferStore`."""
        flat = check_patch(tensor, offset, staged)
        flat[offset : offset + staged.numel()].copy_(staged)
