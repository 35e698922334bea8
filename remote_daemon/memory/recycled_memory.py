"""Recycled host memory: filled, copied to a device and filled again, so that pages are fresh only once.

A page that the system has just given out is cleared when it is first touched; on virtual machines that alone can take
longer than the network takes to fill it.
"""

from __future__ import annotations

import mmap
import threading
import weakref

import torch

from dynamo_genie.remote_daemon.memory.host_memory import HUGE_PAGES_FROM_NBYTES, allocate_host, map_pages

KEEP_NBYTES = 1 << 30
"""Idle memory that is kept for the next upload."""

PAGE_NBYTES = 2 << 20
"""Regions are as large as so many bytes times a whole number, so that tensors of nearly one size share them."""


class RecycledMemory:
    """Regions of host memory, given out again once the last tensor in them has died. Thread-safe."""

    def __init__(self, keep_nbytes: int = KEEP_NBYTES) -> None:
        self._keep_nbytes = keep_nbytes
        self._idle: list[mmap.mmap] = []
        self._lock = threading.RLock()  # a finalizer may run while its own thread is in here

    @property
    def idle_nbytes(self) -> int:
        """Bytes that wait to be given out."""
        with self._lock:
            return sum(map(len, self._idle))

    def allocate(self, nbytes: int) -> torch.Tensor:
        """Return host memory, flat, uint8, with whatever lies there."""
        if nbytes < HUGE_PAGES_FROM_NBYTES:
            return allocate_host(nbytes)
        region = self._take(nbytes) or map_pages(-(-nbytes // PAGE_NBYTES) * PAGE_NBYTES)
        tensor = torch.frombuffer(region, dtype=torch.uint8, count=nbytes)
        weakref.finalize(tensor.untyped_storage(), self._give_back, region).atexit = False
        return tensor

    def _take(self, nbytes: int) -> mmap.mmap | None:
        """Return the smallest idle region that is large enough, and not more than twice as large."""
        with self._lock:
            fitting = [region for region in self._idle if nbytes <= len(region) <= 2 * nbytes]
            best = min(fitting, key=len, default=None)
            if best is not None:
                self._idle = [region for region in self._idle if region is not best]
            return best

    def _give_back(self, region: mmap.mmap) -> None:
        with self._lock:
            self._idle.append(region)
            while sum(map(len, self._idle)) > self._keep_nbytes:
                self._idle.pop(0)  # the one that was used longest ago
