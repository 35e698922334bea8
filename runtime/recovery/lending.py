"""Locks of sessions that several threads hold and one of them needs: the others lend theirs until it is done.

Several threads may find out at once that workers are gone, each with the locks of some sessions. One of them leads; the
others, which need the same thing done, wait, and what they hold it may use. So nobody waits for a lock in a circle.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Generic, Protocol, TypeVar

TRY_S = 0.05
"""So long one try takes to have what another thread holds: it may be about to lend it."""


class Lockable(Protocol):
    """What has a lock of its own."""

    @property
    def lock(self) -> threading.RLock:
        """Held by whoever uses it."""


S = TypeVar("S", bound=Lockable)


class Hold(Generic[S]):
    """What the leading thread may use: what it holds, and what the others lend."""

    def __init__(self, own: set[S], lent: set[S], until: ExitStack) -> None:
        self._own = own
        self._lent = lent
        self._until = until

    @property
    def all(self) -> set[S]:
        """All that it may use at present."""
        return self._own | self._lent

    def take(self, wanted: S, timeout_s: float) -> bool:
        """Have one more, from a thread that is done with it or lends it; False where neither happens in time."""
        deadline = time.monotonic() + timeout_s
        while wanted not in self._own and wanted not in self._lent:
            if wanted.lock.acquire(timeout=TRY_S):
                self._until.callback(wanted.lock.release)
                self._own.add(wanted)
            elif time.monotonic() > deadline:
                return False
        return True


class Lending(Generic[S]):
    """Lets one thread at a time lead."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._lent: set[S] = set()
        self._led = False

    @contextmanager
    def lead(self, everyone: Iterable[S]) -> Iterator[Hold[S]]:
        """Lead, once nobody else does; until then lend whoever does what this thread holds, or could.

        Args:
            everyone: What there is to be held; this thread holds some of it.
        """
        with ExitStack() as until:
            own = set()
            for each in everyone:
                if each.lock.acquire(blocking=False):
                    until.callback(each.lock.release)
                    own.add(each)
            with self._changed:
                self._lent |= own
                self._changed.wait_for(lambda: not self._led)
                self._led = True
                self._lent -= own
            try:
                yield Hold(own, self._lent, until)
            finally:
                with self._changed:
                    self._led = False
                    self._changed.notify_all()
