"""The two system calls behind exact write tracking, Linux 6.7 and later. Knows pages, not tensors.

`userfaultfd` with asynchronous write protection makes the kernel note a page's first write by itself (nobody has to
answer the fault); the `PAGEMAP_SCAN` ioctl reports the pages noted and protects them again, in one step. Both work
without privileges.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import platform
import struct
import sys
from collections.abc import Iterator
from errno import ENOSYS
from types import MappingProxyType

PAGE_NBYTES = mmap.PAGESIZE

_SYS_USERFAULTFD = MappingProxyType({"x86_64": 323, "aarch64": 282, "riscv64": 282, "ppc64le": 364, "s390x": 355})
_USER_MODE_ONLY = 1
_UFFD_API = 0xAA
_FEATURES = 1 << 13 | 1 << 15  # WP_UNPOPULATED: pages never touched count too; WP_ASYNC: no handler
_REGISTER_MODE_WP = 2
_SCAN_WP_MATCHING, _SCAN_CHECK_WPASYNC = 1, 2
_PAGE_IS_WRITTEN = 1 << 1
_VECTOR_LENGTH = 512
_SCAN_ARGUMENT = struct.Struct("12Q")  # size flags start end walk_end vec vec_len max_pages inverted mask anyof return
_WALK_END = struct.Struct("Q")
_WALK_END_OFFSET = 32


def _iowr(kind: int, number: int, nbytes: int) -> int:
    return 3 << 30 | nbytes << 16 | kind << 8 | number


_UFFDIO_API = _iowr(_UFFD_API, 0x3F, 24)
_UFFDIO_REGISTER = _iowr(_UFFD_API, 0x00, 32)
_PAGEMAP_SCAN = _iowr(ord("f"), 16, _SCAN_ARGUMENT.size)


class PageScanner:
    """Reports, and protects again, the pages of this process written since the last report.

    Raises `OSError` on construction where the kernel cannot do it.
    """

    def __init__(self) -> None:
        self._vector = (ctypes.c_uint64 * (3 * _VECTOR_LENGTH))()
        self._fault_fd = _open_userfaultfd()
        try:
            self._pagemap_fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._try_out()
            except OSError:
                os.close(self._pagemap_fd)
                raise
        except OSError:
            os.close(self._fault_fd)
            raise

    def register(self, start: int, end: int) -> None:
        """Let the kernel track these pages; tracking them already is fine. New ones count as written."""
        argument = bytearray(struct.pack("4Q", start, end - start, _REGISTER_MODE_WP, 0))
        fcntl.ioctl(self._fault_fd, _UFFDIO_REGISTER, argument, True)

    def argument(self, start: int, end: int) -> bytearray:
        """Prepare the argument of `scan` for a range of pages, which can be used again and again."""
        flags = _SCAN_WP_MATCHING | _SCAN_CHECK_WPASYNC
        vector = ctypes.addressof(self._vector)
        written = _PAGE_IS_WRITTEN
        return bytearray(
            _SCAN_ARGUMENT.pack(
                _SCAN_ARGUMENT.size, flags, start, end, 0, vector, _VECTOR_LENGTH, 0, 0, written, 0, written
            )
        )

    def scan(self, argument: bytearray, end: int) -> list[tuple[int, int]]:
        """Return the address ranges written since the last scan and protect them again.

        Raises `OSError` when a part is not tracked (it was unmapped and mapped again): reports may then be lost, so
        the whole range must be taken as written.
        """
        found = fcntl.ioctl(self._pagemap_fd, _PAGEMAP_SCAN, argument, True)
        if not found:
            return []
        written = list(self._reported(found))
        (walked,) = _WALK_END.unpack_from(argument, _WALK_END_OFFSET)
        while walked < end:  # the vector was full
            rest = self.argument(walked, end)
            written += self._reported(fcntl.ioctl(self._pagemap_fd, _PAGEMAP_SCAN, rest, True))
            (walked,) = _WALK_END.unpack_from(rest, _WALK_END_OFFSET)
        return written

    def close(self) -> None:
        """Stop all tracking; closing twice is fine."""
        descriptors = (self._pagemap_fd, self._fault_fd)
        self._pagemap_fd = self._fault_fd = -1  # never a descriptor that has meanwhile become somebody else's
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)

    def _reported(self, count: int) -> Iterator[tuple[int, int]]:
        vector = self._vector
        return ((vector[3 * i], vector[3 * i + 1]) for i in range(count))

    def _try_out(self) -> None:
        with mmap.mmap(-1, PAGE_NBYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as page:
            start = ctypes.addressof(ctypes.c_char.from_buffer(page))
            end = start + PAGE_NBYTES
            argument = self.argument(start, end)
            self.register(start, end)
            self.scan(argument, end)
            quiet = self.scan(argument, end)
            page[0] = 1
            if quiet or self.scan(argument, end) != [(start, end)]:
                raise OSError(ENOSYS, "the kernel's record of written pages is not exact")


def _open_userfaultfd() -> int:
    number = _SYS_USERFAULTFD.get(platform.machine())
    if sys.platform != "linux" or number is None:
        raise OSError(ENOSYS, f"no userfaultfd on {sys.platform} {platform.machine()}")
    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.syscall(number, os.O_CLOEXEC | os.O_NONBLOCK | _USER_MODE_ONLY)
    if fd < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"userfaultfd: {os.strerror(error)}")
    try:
        fcntl.ioctl(fd, _UFFDIO_API, bytearray(struct.pack("3Q", _UFFD_API, _FEATURES, 0)), True)
    except OSError:
        os.close(fd)
        raise
    return fd
