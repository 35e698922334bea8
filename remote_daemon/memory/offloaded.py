"""Tensors that were moved out of a device's memory: their bytes in host memory, and how each lies in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch

from dynamo_genie.errors import QuotaExceeded
from dynamo_genie.remote_daemon.memory.dtypes import TORCH_DTYPE
from dynamo_genie.remote_daemon.memory.kv_arena import Arena
from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget
from dynamo_genie.runtime.wire.tensor import TensorSpec

MIN_EVICTED_NBYTES = 64 << 10
"""Smaller storages stay: moving them takes longer than the room is worth."""


@dataclass(frozen=True)
class Layout:
    """How a tensor lies in its storage; `offset` in elements."""

    dtype: torch.dtype
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int = 0
    conjugate: bool = False
    negative: bool = False

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Layout:
        """Return the layout of a strided tensor."""
        offset = int(tensor.storage_offset())
        return cls(tensor.dtype, tensor.shape, tensor.stride(), offset, tensor.is_conj(), tensor.is_neg())

    @classmethod
    def described(cls, spec: TensorSpec) -> Layout:
        """Return the layout of a tensor that fills its storage."""
        return cls(TORCH_DTYPE[spec.dtype], torch.Size(spec.shape), spec.stride)

    def on(self, storage: torch.UntypedStorage) -> torch.Tensor:
        """Return the tensor that lies so in `storage`."""
        tensor = torch.empty(0, dtype=self.dtype, device=storage.device)
        tensor.set_(storage, self.offset, self.shape, self.stride)
        if self.conjugate:
            tensor = torch._conj(tensor)
        return torch._neg_view(tensor) if self.negative else tensor


@dataclass
class SpilledStorage:
    """One storage whose bytes lie in host memory.

    Attributes:
        host: The bytes, flat, uint8.
        layouts: The tensors that lie in it, by handle.
        arena: How far it is filled, if it is one.
    """

    host: torch.Tensor
    layouts: dict[int, Layout] = field(default_factory=dict)
    arena: Arena | None = None


class Evictable(Protocol):
    """Memory of a device that can be emptied into the host's."""

    device: torch.device

    def evict(self, flat: torch.Tensor) -> torch.Tensor:
        """Return a copy of device memory (flat, uint8) in host memory, once it is complete."""
        ...

    def settle(self, flat: torch.Tensor) -> torch.Tensor | None:
        """Return a copy of what a program made (flat, uint8) in the memory of what stays; None where that is full."""
        ...

    def restore(self, host: torch.Tensor) -> torch.Tensor:
        """Return device memory with the bytes of `host`, which is not needed after.

        Raises:
            torch.OutOfMemoryError: It does not fit.
        """
        ...


class HostSpace:
    """Host memory beside a device's, within a budget: the bytes of what was evicted.

    Attributes:
        smallest: Bytes from which on a storage is moved.
    """

    def __init__(self, buffers: Evictable, budget: MemoryBudget, device_budget: MemoryBudget) -> None:
        """Count what lies here in `budget`, and what comes and goes of the device's memory in `device_budget`."""
        self._buffers = buffers
        self._budget = budget
        self._device_budget = device_budget
        self.smallest = MIN_EVICTED_NBYTES

    def take(self, storage: torch.UntypedStorage) -> torch.Tensor | None:
        """Return a storage's bytes in host memory; None where it is not worth it, or there is no room for them.

        The storage counts no longer: whoever holds it must let go of it.
        """
        nbytes = storage.nbytes()
        if nbytes < self.smallest or storage.device != self._buffers.device:
            return None
        try:
            self._budget.reserve(nbytes, "memory of an idle session")
        except QuotaExceeded:
            return None
        try:
            host = self._buffers.evict(_bytes_of(storage))
        except (MemoryError, OSError):  # the machine has less than it was said to have
            self._budget.release(nbytes)
            return None
        except BaseException:
            self._budget.release(nbytes)
            raise
        self._device_budget.release(nbytes)
        return host

    def give_back(self, host: torch.Tensor, what: str) -> torch.UntypedStorage:
        """Return a new storage in the device's memory with these bytes; their room here is free again.

        Args:
            what: Names it, for the error.

        Raises:
            QuotaExceeded, torch.OutOfMemoryError: It does not fit; the bytes stay here.
        """
        self._device_budget.reserve(host.numel(), f"{what} that was moved to host memory")
        try:
            storage = self._buffers.restore(host).untyped_storage()
        except BaseException:
            self._device_budget.release(host.numel())
            raise
        self.drop(host)
        return storage

    def settled(self, storage: torch.UntypedStorage) -> torch.UntypedStorage | None:
        """Return a copy of a storage in the memory of what stays; None where it is not worth it or there is no room."""
        if storage.nbytes() < self.smallest or storage.device != self._buffers.device:
            return None
        copy = self._buffers.settle(_bytes_of(storage))
        return None if copy is None else copy.untyped_storage()

    def drop(self, host: torch.Tensor) -> None:
        """Count these bytes no longer; nobody wants them."""
        self._budget.release(host.numel())


def _bytes_of(storage: torch.UntypedStorage) -> torch.Tensor:
    """Return a storage as a flat tensor of uint8."""
    return Layout(torch.uint8, torch.Size([storage.nbytes()]), (1,)).on(storage)
