"""What NVML says of the first GPU while something is measured; nothing where there is none."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

INTERVAL_S = 0.02


@dataclass
class Samples:
    """Utilisation, 0 to 1, by time on the monotonic clock; NVML's own window is up to a sixth of a second long."""

    taken: list[tuple[float, float]] = field(default_factory=list)

    def mean_over(self, spans: Sequence[tuple[float, float]]) -> float | None:
        """Return the mean of the samples within some spans of time; None where there are none."""
        found = [share for at, share in self.taken if any(began <= at <= ended for began, ended in spans)]
        return sum(found) / len(found) if found else None


class Gpu:
    """The first NVIDIA GPU, if NVML is installed and finds one."""

    def __init__(self) -> None:
        self._nvml: Any = None
        try:
            import pynvml

            pynvml.nvmlInit()
            self._device = pynvml.nvmlDeviceGetHandleByIndex(0)
            self._nvml = pynvml
        except Exception:  # noqa: BLE001 - NVML's errors are classes made at run time; without it there is no GPU to ask
            self._nvml = None

    @contextmanager
    def sampled(self, samples: Samples) -> Iterator[None]:
        """Add samples while the block runs."""
        if self._nvml is None:
            yield
            return
        ended = threading.Event()
        thread = threading.Thread(target=self._sample, args=(samples, ended), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def memory_of(self, pids: Sequence[int]) -> int | None:
        """Return the bytes that processes hold on the GPU; None where that is not known."""
        if self._nvml is None:
            return None
        held = [p for p in self._nvml.nvmlDeviceGetComputeRunningProcesses(self._device) if p.pid in pids]
        known = [p.usedGpuMemory for p in held if p.usedGpuMemory is not None]
        return sum(known) if known else None

    def used_memory(self) -> int | None:
        """Return the bytes that are in use on the GPU, by anybody; None without one."""
        return None if self._nvml is None else int(self._nvml.nvmlDeviceGetMemoryInfo(self._device).used)

    def _sample(self, samples: Samples, ended: threading.Event) -> None:
        while not ended.wait(INTERVAL_S):
            share = self._nvml.nvmlDeviceGetUtilizationRates(self._device).gpu / 100
            samples.taken.append((time.monotonic(), share))
