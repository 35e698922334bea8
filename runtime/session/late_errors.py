"""The errors of one session that the worker told of beside its answers, until somebody in this process hears of them.

Whoever reads what a failed command should have made gets its error raised. What nobody has read by the time of an
answer is logged, once, and stays for `dynamo_genie.synchronize()`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from dynamo_genie.runtime.wire import messages as m

log = logging.getLogger(__name__)

STORING = "StoreWeight"
"""What whoever sends it waits for and asks about, in the same breath."""

CANCELLED = "ProgramCancelled"
"""What whoever pressed Ctrl-C knows already."""

MAX_UNTOLD = 64
"""Errors that are kept for those who ask; later ones are only logged."""


class LateErrors:
    """What the worker told, by the numbers of the errors; those rise."""

    def __init__(self) -> None:
        self._last = 0
        self._told_early: set[int] = set()
        self._untold: dict[int, m.ErrorInfo] = {}
        self._unlogged: dict[int, m.ErrorInfo] = {}
        self._omitted = 0

    def learn(self, news: m.LateFailures) -> list[m.ErrorInfo]:
        """Take what the worker told; return what is new, since an answer may be repeated with what came before it."""
        new = [error for error in news.errors if error.number > self._last]
        for error in new:
            self._last = error.number
            if error.number in self._told_early:
                self._told_early.discard(error.number)
                continue
            if error.kind == CANCELLED:
                continue
            if error.operator != STORING:
                self._unlogged[error.number] = error
            if len(self._untold) < MAX_UNTOLD:
                self._untold[error.number] = error
        self._omitted += news.omitted if new else 0
        return new

    def restart(self) -> None:
        """Expect the errors of another worker, which counts from the beginning; what nobody was told of is logged."""
        self._last = 0
        self._told_early.clear()
        self._untold.clear()

    def told(self, number: int) -> None:
        """Note that an error is being raised; of one that came by another daemon the worker may tell later."""
        if number > self._last and len(self._told_early) < MAX_UNTOLD:
            self._told_early.add(number)
        self._untold.pop(number, None)
        self._unlogged.pop(number, None)

    def take_storing(self) -> m.ErrorInfo | None:
        """Take out the errors of commands that store weights, and return the first."""
        found = [error for error in self._untold.values() if error.operator == STORING]
        for error in found:
            self.told(error.number)
        return found[0] if found else None

    def take_all(self) -> m.ErrorInfo | None:
        """Take out all errors and return the first; the others count as told once they are logged."""
        first = next(iter(self._untold.values()), None)
        if first is not None:
            self.told(first.number)
        self._untold.clear()
        return first

    def log(self, describe: Callable[[m.ErrorInfo], object]) -> None:
        """Log what nobody has been told of, once."""
        if not self._unlogged:
            return
        unlogged, self._unlogged = self._unlogged, {}
        omitted, self._omitted = self._omitted, 0
        for error in unlogged.values():
            log.warning(
                "a call failed in the daemon, and nothing has read its results; whoever reads them gets: %s",
                describe(error),
            )
        if omitted:
            log.warning("%d more commands failed since the last answer", omitted)
