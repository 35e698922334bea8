"""When the last calls of a session were made: an error may show long after its call."""

from __future__ import annotations

import time
from collections import deque

KEPT = 4096
"""Calls that are remembered; an older one is known by its number alone."""


class CallLog:
    """Counts the calls of one session, as its worker does, and remembers when the last ones were made.

    Every call pays for this, so it takes the time and nothing else: to find the user's line would take several
    microseconds, and `errors="immediate"` shows it.

    Attributes:
        count: How many there were.
    """

    def __init__(self) -> None:
        self.count = 0
        self._last: deque[float] = deque(maxlen=KEPT)

    def note(self) -> None:
        """Count a call, made now."""
        self.count += 1
        self._last.append(time.monotonic())

    def restart(self) -> None:
        """Count from the beginning, as another worker does."""
        self.count = 0
        self._last.clear()

    def made_at(self, call: int) -> float:
        """Return when a call was made, on the monotonic clock; 0 for one that is forgotten."""
        index = call - self.count - 1 + len(self._last)
        return self._last[index] if 0 <= index < len(self._last) else 0.0

    def describe(self, call: int) -> str:
        """Return which call it was and when it was made, for an error."""
        if not 0 < call <= self.count:  # what is sent for a call may fail before that is made
            return ""
        made = self.made_at(call)
        when = f"made {time.monotonic() - made:.1f} s before this was raised" if made else f"over {KEPT:,} calls ago"
        ago = self.count - call
        return f"in call {call} of this session, {when}" + (f", {ago:,} calls ago" if made and ago else "")
