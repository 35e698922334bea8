"""Kills a process at moments drawn from a seed, and notes how long it takes until work goes on."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from dynamo_genie.runtime.recovery.recovered import Recovered


@dataclass(frozen=True)
class Death:
    """One kill that work went on after; all in seconds.

    Attributes:
        to_next_s: From the signal to the next token that was read, or the next phase of training, of another worker.
        noticed_s: From the signal until the session knew of it.
        recovered: What the session's recovery cost from there.
    """

    to_next_s: float
    noticed_s: float
    recovered: Recovered


Recoveries = Callable[[], tuple[int, Recovered | None]]
"""Returns how many recoveries there were, and the last one."""


class Killer:
    """Kills one process after the other; each only when work has gone on after the last.

    Attributes:
        kills: How many were killed.
        deaths: What each cost.
    """

    def __init__(
        self, find: Callable[[], int], recoveries: Recoveries, generator: random.Random, pause_s: float = 0.0
    ) -> None:
        """Begin.

        Args:
            find: Returns the process to kill next.
            recoveries: Those of the session that this is done to.
            generator: Draws the moments.
            pause_s: The least time between two kills.
        """
        self._find, self._recoveries = find, recoveries
        self._random = generator
        self._pause_s = pause_s
        self._victim = find()
        self._thread: threading.Thread | None = None
        self._killed_at = 0.0
        self._before = 0
        self.kills = 0
        self.deaths: list[Death] = []

    @property
    def waiting(self) -> bool:
        """Whether a kill is under way that work has not gone on after yet."""
        return self._thread is not None

    def strike(self, within_s: float) -> None:
        """Kill at some moment of the next seconds, from another thread, unless it is too early for that."""
        if self.waiting or time.monotonic() - self._killed_at < self._pause_s:
            return
        self._before, _ = self._recoveries()
        self.kills += 1
        delay_s = self._random.uniform(0.0, within_s)
        self._thread = threading.Thread(target=self._kill, args=(delay_s,), name="killer", daemon=True)
        self._thread.start()

    def _kill(self, delay_s: float) -> None:
        time.sleep(delay_s)  # the moment itself
        self._killed_at = time.monotonic()
        os.kill(self._victim, signal.SIGKILL)

    def progressed(self) -> None:
        """Say that a token was read, or a phase began."""
        if self._thread is None:
            return
        now = time.monotonic()
        count, last = self._recoveries()
        if count == self._before or last is None:
            return
        self._thread.join()
        self._thread = None
        self.deaths.append(Death(now - self._killed_at, last.began - self._killed_at, last))
        self._victim = self._find()
