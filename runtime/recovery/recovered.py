"""How long a recovery took, part by part."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Recovered:
    """One recovery that was completed: when it was begun, on the monotonic clock, and what it cost in seconds.

    Attributes:
        waited_s: Until another worker let the session in: it may have had to start.
        resident_s: Until that one had programs and weights again.
        replayed_s: Until it had done again what was still wanted.
    """

    began: float
    waited_s: float
    resident_s: float
    replayed_s: float


class RecoveryClock:
    """Times the recoveries of a session; each method is called when its part is over.

    Attributes:
        last: The last one that was completed.
    """

    def __init__(self) -> None:
        self.last: Recovered | None = None
        self._began = self._admitted = self._resident = 0.0

    def begun(self) -> None:
        """A worker is gone."""
        self._began = self._admitted = self._resident = time.monotonic()

    def admitted(self) -> None:
        """Another one let the session in."""
        self._admitted = self._resident = time.monotonic()

    def resident(self) -> None:
        """It has programs and weights."""
        self._resident = time.monotonic()

    def completed(self) -> None:
        """It has done all that it was told."""
        waited_s, resident_s = self._admitted - self._began, self._resident - self._admitted
        self.last = Recovered(self._began, waited_s, resident_s, time.monotonic() - self._resident)
