"""Buffers in a device's memory: residents come from one pool, and are filled and read through pinned buffers."""

from __future__ import annotations

import torch

from dynamo_genie.remote_daemon.memory.device_memory import DeviceMemory
from dynamo_genie.remote_daemon.memory.host_buffers import HostBufferStore, check_patch, dense_bytes
from dynamo_genie.remote_daemon.memory.host_memory import allocate_host
from dynamo_genie.remote_daemon.memory.pinned_ring import PinnedRing
from dynamo_genie.runtime.wire.tensor import TensorSpec
from dynamo_genie.tensors import from_flat_bytes, require_dense

DIRECT_NBYTES = 64 << 10
"""Up to this size torch fetches memory at once; it waits for the device anyway."""


class DeviceBufferStore:
    """`BufferStore` in the memory of `device`; used by the executor's thread.

    A tensor is bytes of the pool seen as its dtype, so every dtype that torch has can stay, whatever the pool's library
    knows of it.
    """

    def __init__(self, device: torch.device, memory: DeviceMemory, ring: PinnedRing) -> None:
        self.device = device
        self.memory = memory
        self._ring = ring
        self._host = HostBufferStore()

    def from_bytes(self, spec: TensorSpec, data: bytes) -> torch.Tensor:
        """See `BufferStore`."""
        return self.adopt(spec, self._host.bytes_of(data))

    def adopt(self, spec: TensorSpec, staged: torch.Tensor) -> torch.Tensor:
        """See `BufferStore`. The staged host memory is given back once the device has its copy."""
        require_dense(spec, staged.numel())
        flat = self.memory.allocate(staged.numel())
        self._ring.upload(flat, staged)
        return from_flat_bytes(flat, spec)

    def empty(self, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        """See `BufferStore`."""
        flat = self.memory.allocate(shape.numel() * dtype.itemsize)
        return flat.view(dtype).view(shape)

    def synchronize(self) -> None:
        """See `BufferStore`."""
        torch.cuda.current_stream(self.device).synchronize()

    def reclaim(self) -> None:
        """See `BufferStore`."""
        self.memory.make_room_for_temporaries()

    def offload(self, flat: torch.Tensor) -> torch.Tensor:
        """See `OffloadableMemory`."""
        host = allocate_host(flat.numel())
        self._ring.download(host, flat)
        return host

    def copy_to_pool(self, flat: torch.Tensor) -> torch.Tensor | None:
        """See `OffloadableMemory`."""
        memory = self.memory.allocate_at_once(flat.numel())
        return None if memory is None else memory.copy_(flat)

    def reload(self, host: torch.Tensor) -> torch.Tensor:
        """See `OffloadableMemory`."""
        flat = self.memory.allocate(host.numel())
        self._ring.upload(flat, host)
        return flat

    def to_host(self, tensor: torch.Tensor) -> tuple[TensorSpec, memoryview]:
        """See `BufferStore`."""
        spec, flat = dense_bytes(tensor)
        if flat.numel() <= DIRECT_NBYTES:
            return spec, flat.cpu().numpy().data
        host = allocate_host(flat.numel())
        self._ring.download(host, flat)
        return spec, host.numpy().data

    def in_place(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """See `BufferStore`. The bulk thread reads host memory only."""
        return None

    def patch(self, tensor: torch.Tensor, offset: int, staged: torch.Tensor) -> None:
        """See `BufferStore`."""
        flat = check_patch(tensor, offset, staged)
        self._ring.upload(flat[offset : offset + staged.numel()], staged)
