"""Whether a worker still stands: it is asked every second, and one that stands still is replaced. Pure.

Silence alone says little: a machine may be so busy that a worker gets nothing done for seconds. One that is stopped or
hangs uses no time of a processor while it is silent, and that tells it from one that merely has too little.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

PING_EVERY_S = 1.0
MAX_UNANSWERED = 4
MAX_UNANSWERED_WORKING = 30
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
IDLE_S = 0.02
"""A process that used no more than this since it fell silent did nothing."""


@dataclass
class Watchdog:
    """The watch on one worker. Pings count, not seconds: a supervisor that was stopped itself blames nobody."""

    next_ping: float
    operator_timeout_s: float = 0.0
    unanswered: int = 0
    used_s: float = 0.0

    def answered(self, running_s: float, what: str) -> str:
        """Take an answer and return why the worker must be replaced, empty if it need not.

        Args:
            running_s: For how long the operator has been running that runs now.
        """
        self.unanswered = 0
        if not self.operator_timeout_s or running_s <= self.operator_timeout_s:
            return ""
        limit = f"--operator-timeout {self.operator_timeout_s:g}"
        return f"{what or 'an operator'} ran for {running_s:.1f} s, longer than {limit} allows"

    def ask(self, now: float, used_s: float) -> str:
        """Count a ping that is sent now; return why the worker must be replaced instead, empty if it need not.

        Args:
            used_s: Processor time that the worker has used so far.
        """
        self.next_ping = now + PING_EVERY_S
        if self.unanswered == 0:
            self.used_s = used_s
        self.unanswered += 1
        silent = f"it has not answered for {self.unanswered - 1} s"
        if self.unanswered > MAX_UNANSWERED and used_s - self.used_s <= IDLE_S:
            return f"{silent} and done nothing meanwhile: it was stopped, or hangs"
        if self.unanswered > MAX_UNANSWERED_WORKING:
            return silent
        return ""


def processor_time_s(pid: int) -> float:
    """Return the processor time that a process has used, 0 where it has gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS
