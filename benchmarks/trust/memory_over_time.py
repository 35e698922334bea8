"""Memory of some processes over time, and how fast it grows: a straight line through it, by least squares."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from dynamo_genie.bench.machine import memory_kib, pss_kib

TEN_MINUTES_S = 600.0


@dataclass(frozen=True)
class MemoryUse:
    """What a process has: resident memory, its share of that, and open descriptors."""

    rss_kib: int
    pss_kib: int
    descriptors: int

    @classmethod
    def of(cls, pid: int) -> MemoryUse:
        """Look at a process."""
        return cls(memory_kib(pid, "VmRSS"), pss_kib(pid), len(os.listdir(f"/proc/{pid}/fd")))


@dataclass
class MemoryOverTime:
    """Resident memory of processes, by name, each time that it was looked at."""

    pids: Mapping[str, int]
    seconds: list[float] = field(default_factory=list)
    rss_kib: dict[str, list[int]] = field(default_factory=dict)

    def look(self) -> None:
        """Look at all of them."""
        self.seconds.append(time.monotonic())
        for name, pid in self.pids.items():
            self.rss_kib.setdefault(name, []).append(memory_kib(pid, "VmRSS"))

    def growth_mib(self, name: str, warm_up_s: float) -> tuple[float, float]:
        """Return by how much a process grows in ten minutes, and the standard error of that; see `growth_mib`."""
        return growth_mib(self.seconds, self.rss_kib[name], warm_up_s)


def growth_mib(seconds: list[float], kib: list[int], warm_up_s: float) -> tuple[float, float]:
    """Return the slope of a series of sizes in MiB per ten minutes, without what came in the first `warm_up_s`.

    With it comes its standard error, as if the looks were independent (https://en.wikipedia.org/wiki/Simple_linear_regression).
    """
    taken = [(second, size) for second, size in zip(seconds, kib, strict=True) if second - seconds[0] >= warm_up_s]
    slope, start = statistics.linear_regression(*zip(*taken, strict=True))
    mean = statistics.fmean(second for second, _ in taken)
    residuals = sum((size - start - slope * second) ** 2 for second, size in taken)
    spread = sum((second - mean) ** 2 for second, _ in taken)
    error = math.sqrt(residuals / max(1, len(taken) - 2) / spread)
    return slope * TEN_MINUTES_S / 1024, error * TEN_MINUTES_S / 1024
