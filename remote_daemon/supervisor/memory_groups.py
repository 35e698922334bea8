"""A memory cgroup for each worker, where one may be made: it bounds all that a worker and its compilers take.

The limit on a worker's private memory (`process_limit`) is the one that programs meet. This one is wider, and for what
that one does not count: shared memory, files in memory, the processes that a worker starts.
Both versions of Linux's interface are known (Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
OWN_GROUP = "daemon"
"""Where the supervisor itself goes with version 2: a group whose memory is divided may hold no process."""

OVERHEAD_NBYTES = 4 << 30
"""What a worker and its compilers may take beside its limit: PyTorch, 1 GiB for each compiler that runs."""


class MemoryGroup:
    """One group, with the processes that are put there and what they start."""

    def __init__(self, path: Path, limit_file: str, events_file: str, nbytes: int) -> None:
        """Make it.

        Raises:
            OSError: It may not be made here.
        """
        self._path = path
        self._events = path / events_file
        path.mkdir()
        try:
            (path / limit_file).write_text(str(nbytes))
        except OSError:
            path.rmdir()
            raise

    def add(self, pid: int) -> None:
        """Put a process there."""
        (self._path / "cgroup.procs").write_text(str(pid))

    @property
    def kills(self) -> int:
        """How many of its processes were killed for lack of memory."""
        for line in self._events.read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
        return 0

    def remove(self) -> bool:
        """Kill what is left there and remove it; False while the kernel still counts something."""
        with suppress(OSError):
            for pid in (self._path / "cgroup.procs").read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        try:
            self._path.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True


class MemoryGroups:
    """The groups below the supervisor's own."""

    def __init__(self, base: Path, limit_file: str, events_file: str) -> None:
        self._base = base
        self._files = limit_file, events_file
        self._leaving: list[MemoryGroup] = []
        self._made = 0

    @classmethod
    def find(cls, ours: Collection[int], root: Path = ROOT, membership: Path = MEMBERSHIP) -> MemoryGroups:
        """Find where groups can be made.

        Args:
            ours: The processes of this daemon so far: with version 2 they go to a group of their own, together.

        Raises:
            OSError: Nowhere; the message says why.
        """
        unified: Path | None = None
        for line in membership.read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                groups = cls(root / "memory" / path.lstrip("/"), "memory.limit_in_bytes", "memory.oom_control")
                groups._try()
                return groups
            if number == "0":
                unified = root / path.lstrip("/")
        if unified is None or "memory" not in (unified / "cgroup.controllers").read_text().split():
            raise OSError("memory is not divided here: the unit lacks Delegate=memory")
        groups = cls(_divide(unified, ours), "memory.max", "memory.events")
        groups._try()
        return groups

    def _try(self) -> None:
        """Make one, as a try; remove what killed daemons left."""
        for path in self._base.glob("worker-*-*"):
            if not Path("/proc", path.name.split("-")[1]).exists():
                with suppress(OSError):
                    path.rmdir()
        self.give_back(self.make(0))

    def make(self, nbytes: int) -> MemoryGroup:
        """Make a group for a worker with a limit of so many bytes.

        Raises:
            OSError: It cannot be made.
        """
        self._made += 1
        return MemoryGroup(self._base / f"worker-{os.getpid()}-{self._made}", *self._files, nbytes + OVERHEAD_NBYTES)

    def give_back(self, group: MemoryGroup) -> None:
        """Remove a group now, or as soon as that can be."""
        self._leaving.append(group)
        self.look()

    def look(self) -> None:
        """Remove what could not be removed before; call it now and then."""
        self._leaving = [group for group in self._leaving if not group.remove()]


def _divide(unified: Path, ours: Collection[int]) -> Path:
    """Return a group of version 2 whose memory is divided, and in which no process is."""
    base = unified.parent if unified.name == OWN_GROUP else unified
    inside = {int(pid) for pid in (base / "cgroup.procs").read_text().split()}
    if not inside <= set(ours):
        raise OSError(f"other processes are in the daemon's own cgroup, too ({len(inside - set(ours))} of them)")
    if inside:
        (base / OWN_GROUP).mkdir(exist_ok=True)
        for pid in inside:
            (base / OWN_GROUP / "cgroup.procs").write_text(str(pid))
    (base / "cgroup.subtree_control").write_text("+memory")
    return base
