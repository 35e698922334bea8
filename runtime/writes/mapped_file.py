"""Whether the content of a file that is mapped here has stayed, judged by its times and by who has it open.

A private mapping shows what others write to the file. The kernel notes such a write in the file's times, with gaps:
writes within one tick of the clock look the same, and a process that keeps the file mapped leaves no further trace on a
page that it has made dirty. So times are trusted only once they are old, and while nobody has the file open for
writing.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import time
from dataclasses import dataclass

_SETTLED_AFTER_S = 2.0  # the coarsest clock of the file systems below is 1 s
_TIMES_ARE_KEPT = frozenset(
    {
        0xEF53,  # ext2 to ext4
        0x58465342,  # xfs
        0x9123683E,  # btrfs
        0xF2F52010,  # f2fs
        0x2FC12FC1,  # zfs
        0x794C7630,  # overlayfs
    }
)
"""File systems of this machine that note the first write to each clean mapped page. tmpfs does not."""

FileState = tuple[int, int, int, int, int] | None


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at a file found. `quiet`: a write after this look will change `state`; None: cannot be told."""

    state: FileState
    quiet: bool


class MappedFile:
    """A mapped file, followed by a descriptor of its own: renamed or deleted, it is still the one that is mapped."""

    def __init__(self, path: str, inode: int) -> None:
        self._fd = _open(path, inode)
        self._times_are_kept = self._fd >= 0 and _file_system(self._fd) in _TIMES_ARE_KEPT
        self.last = self.look()

    def look(self) -> Look:
        """Look at the file anew, remember what was found, and return it."""
        if self._fd < 0:
            self.last = Look(None, False)
        else:
            unwritten = self._times_are_kept and _nobody_writes(self._fd)  # first: who leaves now has left its trace
            found = os.fstat(self._fd)
            age_s = time.time() - max(found.st_mtime, found.st_ctime)
            state = found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size
            self.last = Look(state, unwritten and age_s > _SETTLED_AFTER_S)
        return self.last

    def close(self) -> None:
        """Give the descriptor back; closing twice is fine."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _open(path: str, inode: int) -> int:
    """Open the file if it is still the one that was mapped; else -1."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return -1
    if os.fstat(fd).st_ino != inode:
        os.close(fd)
        return -1
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)  # is ignored by default; SIGIO would end the process
    return fd


def _nobody_writes(fd: int) -> bool:
    """Say whether no process has the file open, or mapped, for writing: only then does the kernel grant a read lease.

    Leases are for the file's owner; where one is refused for another reason, the answer is that somebody may write.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError:
        return False
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return True


def _file_system(fd: int) -> int:
    """Return the number of the file system's kind, the first word of `struct statfs`; 0 where it cannot be told."""
    answer = (ctypes.c_long * 64)()
    failed = ctypes.CDLL(None, use_errno=True).fstatfs(fd, ctypes.byref(answer))
    return 0 if failed else answer[0]
