"""Watches on a parent that a process must not outlive: workers their supervisor, an embedded daemon its client."""

from __future__ import annotations

import os
import select
import signal
import sys

from dynamo_genie.remote_daemon.channel.prctl import PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG, prctl


def die_with_parent(parent_pid: int | None = None) -> None:
    """Have the kernel kill this process as soon as the parent's thread that started it ends.

    Call it first thing. With `parent_pid`, leaves at once if the parent died before the call. Outside Linux the
    kernel has no such service: there the end of the pipe is the only signal.
    """
    if not sys.platform.startswith("linux"):
        return
    prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if parent_pid is not None and os.getppid() != parent_pid:
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of what this process's descendants leave behind; whoever does must wait for them all."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


class ProcessWatch:
    """Tells when a process that need not be a child has ended. `fileno()` is -1 where it must be polled."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._is_parent = os.getppid() == pid
        self._fd = open_pidfd(pid)

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when the process ends, -1 where the kernel has none."""
        return self._fd

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        if self._is_parent and os.getppid() != self.pid:
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return self._fd >= 0 and _readable(self._fd)

    def close(self) -> None:
        """Give the descriptor back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_pidfd(pid: int) -> int:
    """Return a descriptor that becomes readable when `pid` ends, or -1 where the system cannot make one."""
    opener = getattr(os, "pidfd_open", None)
    if opener is None:
        return -1
    try:
        return int(opener(pid))
    except OSError:
        return -1


def _readable(fd: int) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(0))
