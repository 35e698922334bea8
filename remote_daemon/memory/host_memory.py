"""Host memory, for bytes that are about to be written, from the front to the end, once."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from collections.abc import Callable
from typing import TypeAlias

import torch

Allocate: TypeAlias = Callable[[int], torch.Tensor]
"""Returns host memory, flat, uint8, for so many bytes."""

HUGE_PAGES_FROM_NBYTES = 8 << 20


def allocate_host(nbytes: int) -> torch.Tensor:
    """Return uninitialised host memory, in huge pages where it is large: touching small ones first costs more
    than receiving into them."""
    if nbytes >= HUGE_PAGES_FROM_NBYTES:
        with contextlib.suppress(OSError):  # there are no fresh pages; the allocator may have some that were freed
            return torch.frombuffer(map_pages(nbytes), dtype=torch.uint8)
    return torch.empty(nbytes, dtype=torch.uint8)


def map_pages(nbytes: int) -> mmap.mmap:
    """Return fresh pages of this process's own, huge ones where the kernel has them."""
    region = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel built without them
            region.madvise(mmap.MADV_HUGEPAGE)
    return region


def trim_host_memory() -> None:
    """Give free memory back to the system where the C library can: glibc's allocator keeps what lies in pieces."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def machine_nbytes() -> int:
    """Return how much memory this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
