"""The host pool: host memory for tensors that were offloaded from a device, and how each lies in its storage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from dynamo_genie.errors import QuotaExceeded
from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget
from dynamo_genie.runtime.wire.tensor import TensorSpec
from dynamo_genie.tensors import TORCH_DTYPES
from dynamo_genie.torch_internals.tensors import conjugate_view, negative_view

MIN_OFFLOADED_NBYTES = 64 << 10
"""Smaller storages stay: moving them takes longer than the room is worth."""


@dataclass(frozen=True)
class TensorLayout:
    """How a tensor lies in its storage; `offset` in elements."""

    dtype: torch.dtype
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int = 0
    conjugate: bool = False
    negative: bool = False

    @classmethod
    def of(cls, tensor: torch.Tensor) -> TensorLayout:
        """Return the layout of a strided tensor."""
        offset = int(tensor.storage_offset())
        return cls(tensor.dtype, tensor.shape, tensor.stride(), offset, tensor.is_conj(), tensor.is_neg())

    @classmethod
    def of_spec(cls, spec: TensorSpec) -> TensorLayout:
        """Return the layout of a tensor that fills its storage."""
        return cls(TORCH_DTYPES[spec.dtype], torch.Size(spec.shape), spec.stride)

    def on(self, storage: torch.UntypedStorage) -> torch.Tensor:
        """Return the tensor that lies so in `storage`."""
        tensor = torch.empty(0, dtype=self.dtype, device=storage.device)
        tensor.set_(storage, self.offset, self.shape, self.stride)
        if self.conjugate:
            tensor = conjugate_view(tensor)
        return negative_view(tensor) if self.negative else tensor


class OffloadableMemory(Protocol):
    """Memory of a device that can be offloaded to the host's."""

    device: torch.device

    def offload(self, flat: torch.Tensor) -> torch.Tensor:
        """Return a copy of device memory (flat, uint8) in host memory, once it is complete."""
        ...

    def reload(self, host: torch.Tensor) -> torch.Tensor:
        """Return device memory with the bytes of `host`, which is not needed after.

        Raises:
            torch.OutOfMemoryError: It does not fit.
        """
        ...

    def copy_to_pool(self, flat: torch.Tensor) -> torch.Tensor | None:
        """Return a copy of temporary memory (flat, uint8) in the resident pool; None where that is full."""
        ...


class HostPool:
    """Host memory beside a device's, within a budget: the bytes of what was offloaded.

    Attributes:
        smallest: Bytes from which on a storage is moved.
    """

    def __init__(self, buffers: OffloadableMemory, budget: MemoryBudget, device_budget: MemoryBudget) -> None:
        """Count what lies here in `budget`, and what is offloaded and reloaded in the device's `device_budget`."""
        self._buffers = buffers
        self._budget = budget
        self._device_budget = device_budget
        self.smallest = MIN_OFFLOADED_NBYTES

    def offload(self, storage: torch.UntypedStorage) -> torch.Tensor | None:
        """Return a storage's bytes in host memory; None where it is not worth it, or there is no room for them.

        The storage counts no longer: whoever holds it must drop it.
        """
        nbytes = storage.nbytes()
        if nbytes < self.smallest or storage.device != self._buffers.device:
            return None
        try:
            self._budget.reserve(nbytes, "memory of an idle session")
        except QuotaExceeded:
            return None
        try:
            host = self._buffers.offload(_bytes_of(storage))
        except (MemoryError, OSError):  # the machine has less than it was said to have
            self._budget.release(nbytes)
            return None
        except BaseException:
            self._budget.release(nbytes)
            raise
        self._device_budget.release(nbytes)
        return host

    def reload(self, host: torch.Tensor, what: str) -> torch.UntypedStorage:
        """Return a new storage in the device's memory with these bytes; their room here is free again.

        Args:
            what: Names it, for the error.

        Raises:
            QuotaExceeded, torch.OutOfMemoryError: It does not fit; the bytes stay here.
        """
        self._device_budget.reserve(host.numel(), f"{what} that was moved to host memory")
        try:
            storage = self._buffers.reload(host).untyped_storage()
        except BaseException:
            self._device_budget.release(host.numel())
            raise
        self.free(host)
        return storage

    def free(self, host: torch.Tensor) -> None:
        """Count these bytes no longer; nobody wants them."""
        self._budget.release(host.numel())

    def copy_to_pool(self, storage: torch.UntypedStorage) -> torch.UntypedStorage | None:
        """Return a copy of a storage in the resident pool; None where it is not worth it or there is no room."""
        if storage.nbytes() < self.smallest or storage.device != self._buffers.device:
            return None
        copy = self._buffers.copy_to_pool(_bytes_of(storage))
        return None if copy is None else copy.untyped_storage()


def _bytes_of(storage: torch.UntypedStorage) -> torch.Tensor:
    """Return a storage as a flat tensor of uint8."""
    return TensorLayout(torch.uint8, torch.Size([storage.nbytes()]), (1,)).on(storage)
