"""Whose turn it is where several share one executor: the turn of who has used the least of its time.

Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996): every member has an account of the time that it used, and
a member that comes back after a while begins where the others are by then, so that nobody saves time up. No turn's
length has to be known before it is over.

A turn cannot be interrupted. Members that ask, hear the answer and ask again have nothing to do in between, and a long
turn of another would begin in each of these moments. So a member that paused just now is waited for a little before
somebody gets a turn who has used much more (anticipatory scheduling: Iyer and Druschel, SOSP 2001). The wait is for
its account. And one with work that had no turn for long, since many others are behind it, is forgiven what it is ahead.
Pure: times are passed in, in seconds.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

PATIENCE = 8
"""A member that paused is waited for, for one part in so many of the time that it is behind who comes next."""

MIN_PATIENCE_S = 0.001
MAX_PATIENCE_S = 0.05

MAX_WAIT_S = 1.0
"""For how long a member with work has no turn, at most, because of what it has used."""

_WORTH_A_LOOK_S = PATIENCE * MIN_PATIENCE_S

T = TypeVar("T", bound=Hashable)


class Turns(Generic[T]):
    """The turns of members: one is `ready` when it has work, may `begin`, then it has `used` time, and is ready or not.

    Attributes:
        ready_members: Those that have work, to be looked at.
        patience_s: How long to wait for who paused, where no turn may begin.
    """

    def __init__(self, max_wait_s: float = MAX_WAIT_S) -> None:
        self.ready_members: dict[T, float] = {}  # since when, the first one first
        self.patience_s = 0.0
        self._max_wait_s = max_wait_s
        self._clock = 0.0
        self._used: dict[T, float] = {}
        self._entries: list[tuple[float, int, T]] = []  # a heap; those with another number than this are out of date
        self._numbers: dict[T, int] = {}
        self._last = 0
        self._paused: dict[T, float] = {}  # when, the latest one last
        self._awaited: T | None = None

    def ready(self, member: T, now: float) -> None:
        """Note that a member has work; again does nothing."""
        if member not in self.ready_members:
            self.ready_members[member] = now
            self._paused.pop(member, None)
            if self._used.get(member, -1.0) < self._clock:
                self._used[member] = self._clock
            self._enter(member)

    def begin(self, now: float) -> T | None:
        """Return the member whose turn begins now; None where somebody is to be waited for, or nobody has work."""
        if len(self.ready_members) > 1:
            self._forgive(now)
        while self._entries:
            start, number, member = self._entries[0]
            if self._numbers.get(member) != number:
                heapq.heappop(self._entries)
                continue
            if start - self._clock >= _WORTH_A_LOOK_S and self._is_early(start, now):
                return None
            heapq.heappop(self._entries)
            del self.ready_members[member], self._numbers[member]
            self._clock = start
            return member
        return None

    def waited(self, seconds: float) -> None:
        """Put what was waited on the account of who was waited for."""
        member = self._awaited
        if member is not None and member in self._paused:
            self._used[member] = max(self._used[member], self._clock) + seconds

    def used(self, member: T, seconds: float) -> None:
        """Put time that was used for a member on its account."""
        if member in self._used:
            self._used[member] += seconds
            if member in self.ready_members:
                self._enter(member)

    def pause(self, member: T, now: float) -> None:
        """Note that a member has no more work, though it may have more soon."""
        self._paused[member] = now

    def leave(self, member: T) -> None:
        """Forget a member."""
        for table in (self._used, self.ready_members, self._numbers, self._paused):
            table.pop(member, None)

    def _enter(self, member: T) -> None:
        self._last = number = self._last + 1
        self._numbers[member] = number
        heapq.heappush(self._entries, (self._used[member], number, member))

    def _forgive(self, now: float) -> None:
        member, since = next(iter(self.ready_members.items()))
        if now - since > self._max_wait_s and self._used[member] > self._clock:
            self._used[member] = self._clock
            self._enter(member)

    def _is_early(self, start: float, now: float) -> bool:
        """Whether somebody who paused is to be waited for before a turn with this start."""
        since = now - _patience_s(start - self._clock)
        for member in reversed(self._paused):
            paused = self._paused[member]
            if paused < since:
                return False
            left = paused + _patience_s(start - max(self._used[member], self._clock)) - now
            if left >= MIN_PATIENCE_S:
                self._awaited, self.patience_s = member, left
                return True
        return False


def _patience_s(behind: float) -> float:
    return min(behind / PATIENCE, MAX_PATIENCE_S)
