"""Who killed a process: the kernel for lack of memory, or somebody else.

The kernel counts such kills, but tells nobody which they were.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path

VMSTAT = Path("/proc/vmstat")
LOOKS = 4
KILLED = "killed by SIGKILL"
BY_THE_KERNEL = ": by the kernel, for lack of memory"


def kills_so_far() -> int:
    """Return how many processes the kernel has killed for lack of memory, -1 where it does not say."""
    try:
        for line in VMSTAT.read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except OSError:
        pass
    return -1


class OutOfMemoryKills:
    """Tells deaths for lack of memory from other kills, by what was counted in the last seconds.

    A large process takes some of them to end: its memory is given back first.
    """

    def __init__(self, count: Callable[[], int] = kills_so_far) -> None:
        self._count = count
        self._seen = deque([count()], maxlen=LOOKS)

    def look(self) -> None:
        """Note the count as it stands; call it about every second."""
        self._seen.append(self._count())

    def explain(self, how: str) -> str:
        """Return how a process ended, with the lack of memory where that was it."""
        if how != KILLED:
            return how
        before, now = self._seen[0], self._count()
        self._seen.clear()
        self._seen.append(now)
        return f"{KILLED}{BY_THE_KERNEL}" if now > before else how

    def from_outside(self, how: str) -> bool:
        """Whether a process that ended so, as was just explained, was killed by somebody who is none of ours.

        No program and no library can bring this about, for only the kernel and other processes send this signal.
        """
        return how == KILLED and self._seen[-1] >= 0
