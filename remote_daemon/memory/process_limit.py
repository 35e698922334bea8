"""The limit on this process's memory, whoever asks for it: resident tensors, temporaries, Python, ZeroMQ.

A budget counts what it is told of. What an operator takes on the way nobody tells, so on Linux the kernel is asked to
refuse private memory beyond a limit (`RLIMIT_DATA`): PyTorch's allocator then raises, before a page is touched, and the
program ends instead of the worker. Elsewhere there is no such service, and temporaries are not limited.

At the limit nothing works any more, not even what ends a program in good order: ZeroMQ ends the process where it finds
no memory. Large requests fail long before that; small ones would not, so programs of many operators `check`.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from dynamo_genie.remote_daemon.memory.host_memory import trim_host_memory

HEADROOM_NBYTES = 64 << 20
"""What a worker may take beside its limit, over what it has when it is idle and new: queues, handles, programs."""

MARGIN_NBYTES = 16 << 20
"""What programs leave of it."""

CHECK_EVERY = 256
"""Operators of a program between two checks, so many that these cost nothing next to them."""

COMPILER_NBYTES = 1 << 30
"""What may be taken beside the limit while a program is compiled, by this process and each that a compiler starts."""

LOADED_NBYTES = 512 << 20
"""The most of it that compilers, once loaded, may keep."""

RESERVE_NBYTES = 4 << 20
"""What each thread's arena of the C library keeps for small requests."""

LARGE_NBYTES = 32 << 20
"""From here on the C library maps memory, and gives it back at once; what it finds by itself, in time."""

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h


def can_limit_process() -> bool:
    """Whether the kernel counts what this process takes."""
    return sys.platform.startswith("linux")


def reserve_for_threads() -> None:
    """Let the arenas of threads that start from now on have a reserve."""
    _set_allocator(M_TOP_PAD, RESERVE_NBYTES)


class ProcessLimit:
    """The limit of this process: none until `start`."""

    def __init__(self) -> None:
        self._statm = -1
        self._limit = 0
        self._loaded = 0

    @property
    def taken(self) -> int:
        """Private memory that this process has been given, touched or not: what the kernel compares."""
        pages = int(os.pread(self._statm, 256, 0).split()[5])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def start(self, nbytes: int) -> None:
        """Allow `nbytes` and the headroom over what there is now; call it when all threads have started."""
        if not can_limit_process():
            return
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        _set_allocator(M_MMAP_THRESHOLD, LARGE_NBYTES)  # it adapts no more once one of its settings was set
        _set_allocator(M_TRIM_THRESHOLD, 2 * LARGE_NBYTES)
        trim_host_memory()
        self._limit = self.taken + nbytes + HEADROOM_NBYTES
        _set_limit(self._limit)

    def check(self, nbytes: int = 0) -> None:
        """Raise where so little is left, or would be with `nbytes` less, that small requests might soon fail.

        Raises:
            MemoryError: What may be taken is taken.
        """
        if not self._limit:
            return
        beyond = self.taken + nbytes - (self._limit - MARGIN_NBYTES)
        if beyond > 0 and beyond > _free_nbytes():
            what = f"loading a program takes {nbytes:,} bytes" if nbytes else "the values that a program makes fill it"
            raise MemoryError(f"this worker's memory has no room: {what}")

    @contextmanager
    def room_for_a_compiler(self) -> Iterator[None]:
        """Take and give back what compiling wants; what it loaded stays, beside the limit."""
        if not self._limit:
            yield
            return
        before = self.taken
        _set_limit(self._limit + COMPILER_NBYTES)
        try:
            yield
        finally:
            kept = min(max(0, self.taken - before), LOADED_NBYTES - self._loaded)
            self._loaded += kept
            self._limit += kept
            _set_limit(self._limit)


class _MallocInfo(ctypes.Structure):
    """glibc's `struct mallinfo2` (malloc.h)."""

    _fields_ = (
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks")),
        *((name, ctypes.c_size_t) for name in ("fsmblks", "uordblks", "fordblks", "keepcost")),
    )


def _free_nbytes() -> int:
    """Return what the C library has in its arenas and nobody uses: pieces that small requests are served from."""
    info = getattr(ctypes.CDLL(None), "mallinfo2", None)  # since glibc 2.33
    if info is None:
        return 0
    info.restype = _MallocInfo
    return int(info().fordblks)


def _set_allocator(option: int, value: int) -> None:
    """Set an option of glibc's allocator; others have none."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(option, value)


def _set_limit(nbytes: int) -> None:
    import resource  # there is none on Windows

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = nbytes if hard == resource.RLIM_INFINITY else min(nbytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))
