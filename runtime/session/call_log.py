"""When and where in the user's program the last calls of a session were made: an error may show long after its call."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from types import CodeType, FrameType
from typing import TypeAlias

import torch

KEPT = 4096
"""Calls that are remembered; an older one is known by its number alone."""

Made: TypeAlias = tuple[float, CodeType | None, int]
"""When a call was made, and the line."""

_TORCH = os.path.dirname(torch.__file__) + os.sep
_OURS = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..")) + os.sep
_INTERNAL = (_TORCH, _OURS, "<")
_COMPILED = os.path.join(_TORCH, "_dynamo", "eval_frame.py")
_RESUMED = "torch_dynamo_resume_in_"
"""What Dynamo calls the rest of a function, after a break of its graph."""


class CallLog:
    """Counts the calls of one session, as its worker does, and remembers the last ones.

    Attributes:
        count: How many there were.
    """

    def __init__(self) -> None:
        self.count = 0
        self._last: deque[Made] = deque(maxlen=KEPT)

    def note(self) -> None:
        """Count a call, made now from here; takes a microsecond or two."""
        self.count += 1
        frame = _caller(sys._getframe(1))
        self._last.append((time.monotonic(), frame.f_code, frame.f_lineno) if frame else (time.monotonic(), None, 0))

    def made_at(self, call: int) -> float:
        """Return when a call was made, on the monotonic clock; 0 for one that is forgotten."""
        made = self._find(call)
        return made[0] if made is not None else 0.0

    def describe(self, call: int) -> str:
        """Return which call it was and where and when it was made, for an error."""
        if not 0 < call <= self.count:  # what is sent for a call may fail before that is made
            return ""
        made = self._find(call)
        if made is None:
            return f"in call {call} of this session, over {KEPT:,} calls ago"
        when, code, line = made
        where = f" at {code.co_filename}:{line}, in {code.co_name}" if code is not None else ""
        return f"in call {call} of this session, made {time.monotonic() - when:.1f} s before this was raised{where}"

    def _find(self, call: int) -> Made | None:
        index = call - self.count - 1 + len(self._last)
        return self._last[index] if 0 <= index < len(self._last) else None


def _caller(frame: FrameType | None) -> FrameType | None:
    """Return the frame of the user's program that called; of a compiled function, the one that called that."""
    found: FrameType | None = None
    while frame is not None:
        name = frame.f_code.co_filename
        if name == _COMPILED:
            found = None
        elif found is not None:
            return found
        elif not (name.startswith(_INTERNAL) or frame.f_code.co_name.startswith(_RESUMED)):
            found = frame
        frame = frame.f_back
    return found
