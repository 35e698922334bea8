"""Buffers in a device's memory, filled from and read back through host memory.

Torch's allocator owns the memory for now. A CuPy-owned store takes this class's place behind `BufferStore`.
"""

from __future__ import annotations

import torch

from dynamo_genie.remote_daemon.host_buffers import HostBufferStore, dense_bytes
from dynamo_genie.runtime.wire.tensor import TensorSpec


class DeviceBufferStore:
    """`BufferStore` in the memory of `device`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._host = HostBufferStore()

    def from_bytes(self, spec: TensorSpec, data: bytes) -> torch.Tensor:
        """See `BufferStore`."""
        return self._move(self._host.from_bytes(spec, data))

    def adopt(self, spec: TensorSpec, staged: torch.Tensor) -> torch.Tensor:
        """See `BufferStore`. The staged host memory is given back once the device has its copy."""
        return self._move(self._host.adopt(spec, staged))

    def to_host(self, tensor: torch.Tensor) -> tuple[TensorSpec, memoryview]:
        """See `BufferStore`."""
        spec, flat = dense_bytes(tensor)
        return spec, flat.cpu().numpy().data

    def patch(self, tensor: torch.Tensor, offset: int, staged: torch.Tensor) -> None:
        """See `BufferStore`."""
        self._host.patch(tensor, offset, staged)

    def _move(self, host: torch.Tensor) -> torch.Tensor:
        moved = torch.empty_strided(host.shape, host.stride(), dtype=host.dtype, device=self.device)
        return moved.copy_(host)
