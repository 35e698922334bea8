"""CuPy's pool, torch's allocator and CUDA streams behind the interfaces of `device_memory` and `pinned_ring`.

Nothing here decides anything, so that all that does can be tested without a GPU. CuPy is imported when a worker opens
a CUDA device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dynamo_genie.errors import OptionError
from dynamo_genie.remote_daemon.memory.device_memory import DeviceMemory
from dynamo_genie.remote_daemon.memory.pinned_ring import SLOT_NBYTES, SLOTS, PinnedRing


class CupyPool:
    """The resident pool of one device: memory of CuPy's."""

    def __init__(self, device: torch.device, limit: int) -> None:
        """Make an empty pool that never holds more than `limit` bytes.

        Raises:
            OptionError: CuPy is not installed, or finds no such device.
        """
        try:
            import cupy
        except ImportError as error:
            raise OptionError(
                f"--device {device} keeps its buffers in CuPy memory, and CuPy cannot be imported ({error}): "
                "pip install 'dynamo_genie[cuda]' on the daemon's machine"
            ) from None
        self._cupy: Any = cupy
        self._device = device
        self._stream = torch.cuda.current_stream(device)
        self._pool = cupy.cuda.MemoryPool()
        self.allow(limit)

    @property
    def held(self) -> int:
        """See `ResidentPool`."""
        with self._here():
            return int(self._pool.total_bytes())

    @property
    def used(self) -> int:
        """See `ResidentPool`."""
        with self._here():
            return int(self._pool.used_bytes())

    def allow(self, nbytes: int) -> None:
        """See `ResidentPool`."""
        with self._here():
            self._pool.set_limit(size=max(1, nbytes))  # 0 would be no limit at all

    def allocate(self, nbytes: int) -> torch.Tensor:
        """See `ResidentPool`. Memory that was freed is used again in the order of the compute stream alone.

        Raises:
            RuntimeError: Another stream is current: one that captures, which an allocation would spoil.
        """
        if nbytes == 0:
            return torch.empty(0, dtype=torch.uint8, device=self._device)
        if torch.cuda.current_stream(self._device) != self._stream:
            raise RuntimeError("memory that stays was asked for while a CUDA graph is recorded")
        cupy = self._cupy
        with self._here():
            array = cupy.ndarray((nbytes,), dtype=cupy.uint8, memptr=self._pool.malloc(nbytes))
            return torch.from_dlpack(array)

    def trim(self) -> None:
        """See `ResidentPool`."""
        with self._here():
            self._pool.free_all_blocks()

    def _here(self) -> Any:
        """Make the device the current one: a pool of CuPy's has one for each, and speaks of the current device's."""
        return self._cupy.cuda.Device(self._device.index)


class TorchAllocator:
    """The temporary allocator of one device: torch's caching allocator."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._total = torch.cuda.get_device_properties(device).total_memory

    @property
    def held(self) -> int:
        """See `TemporaryAllocator`."""
        return int(torch.cuda.memory_reserved(self._device))

    def allow(self, nbytes: int) -> None:
        """See `TemporaryAllocator`."""
        torch.cuda.set_per_process_memory_fraction(min(1.0, nbytes / self._total), self._device)

    def trim(self) -> None:
        """See `TemporaryAllocator`."""
        with torch.cuda.device(self._device):
            torch.cuda.empty_cache()


class CudaStreams:
    """torch's current stream for computing, and one for copies."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copies = torch.cuda.Stream(device)

    def copies_wait(self) -> None:
        """See `CopyStreams`."""
        self._copies.wait_stream(torch.cuda.current_stream(self._device))

    def compute_waits(self) -> None:
        """See `CopyStreams`."""
        torch.cuda.current_stream(self._device).wait_stream(self._copies)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> torch.cuda.Event:
        """See `CopyStreams`."""
        with torch.cuda.stream(self._copies):
            target.copy_(source, non_blocking=True)
            event = torch.cuda.Event()
            event.record(self._copies)
        return event

    def copy_small(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """See `CopyStreams`. torch keeps the pinned buffer until the copy is through."""
        target.copy_(source.pin_memory(), non_blocking=True)


def open_cuda_memory(
    device: torch.device, limit: int, free: Callable[[int], object] | None = None
) -> tuple[DeviceMemory, PinnedRing]:
    """Return a CUDA device's memory within `limit` bytes, and the ring through which it is filled.

    Args:
        free: Frees residents of so many bytes, if they can go.

    Raises:
        OptionError: CuPy is not installed.
    """
    memory = DeviceMemory(limit, CupyPool(device, limit), TorchAllocator(device), free)
    buffers = [torch.empty(SLOT_NBYTES, dtype=torch.uint8, pin_memory=True) for _ in range(SLOTS)]
    return memory, PinnedRing(buffers, CudaStreams(device))
