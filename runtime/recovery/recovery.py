"""What a session does when its worker has died: goes on at another one, where everything is as it was."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from dynamo_genie.errors import DaemonUnavailable, RequestTimeout, SessionLost
from dynamo_genie.runtime.recovery.journal import Journal
from dynamo_genie.runtime.recovery.recovered import RecoveryClock
from dynamo_genie.runtime.recovery.saving import Saving

log = logging.getLogger(__name__)

MAX_DEATHS = 3
"""So many workers may die of the same: then it is taken for the cause."""

PAUSE_S = 0.2
"""Between two tries to be let in by a daemon that refuses at once: it ends, or has just begun."""

T = TypeVar("T")
A = TypeVar("A")


class Recovery(Generic[A]):
    """Recovers one session, under the session's lock.

    Attributes:
        journal: What there is to recover.
        saving: What of it is saved.
        going_on: Whether another worker may take the place of one that died.
        count: How often one did.
        clock: Times it.
    """

    def __init__(
        self, device: str, reopen: Callable[[], A], begin_again: Callable[[A], None], patience_s: float
    ) -> None:
        """Recover with these means.

        Args:
            device: The kind of device that workers compute on.
            reopen: Opens an attachment to a worker that knows nothing.
            begin_again: Goes on over an attachment: tells its worker all that is to be known.
            patience_s: How long to try to open one.
        """
        self.journal = Journal(device)
        self.saving = Saving(self.journal)
        self.going_on = True
        self.count = 0
        self.clock = RecoveryClock()
        self._reopen = reopen
        self._begin_again = begin_again
        self._patience_s = patience_s
        self._inside = False
        self._deaths = 0

    def whole(self, operation: Callable[[], T]) -> T:
        """Run an operation that can be begun again; where a worker dies under it, it is, on another worker."""
        if self._inside or not self.going_on:
            return operation()
        while True:
            self._inside = True
            try:
                result = operation()
            except DaemonUnavailable as error:
                self._inside = False
                self.journal.answered()
                if not self.go_on(error):
                    raise
            else:
                self._deaths = 0
                return result
            finally:
                self._inside = False

    def go_on(self, error: DaemonUnavailable) -> bool:
        """Go on at another worker after an error that says that one is gone; False where this cannot be, here or ever.

        Whoever caught the error raises it then: raised from here, it would keep alive all that its callers hold.
        """
        if self._inside or not self.going_on or isinstance(error, RequestTimeout):
            return False
        self._inside = True
        try:
            self._recover(error)
        except Exception:
            self.going_on = False
            raise
        finally:
            self._inside = False
        return True

    def heard(self, request_id: int) -> None:
        """Note that a worker has answered a request: what was asked has killed none."""
        pending = self.journal.pending
        if pending is not None and pending.request_id == request_id:  # type: ignore[union-attr]  # all such have one
            self.journal.answered()
        if not self._inside:
            self._deaths = 0

    def _recover(self, error: DaemonUnavailable) -> None:
        what = str(error).splitlines()[0]
        self.clock.begun()
        while True:
            self._deaths += 1
            if self._deaths > MAX_DEATHS:
                raise SessionLost(
                    f"{MAX_DEATHS} workers ended one after the other while they did what this session asks for; "
                    f"the last one: {what}"
                ) from error
            log.warning("a worker is gone, and the session goes on at another one: %s", what)
            try:
                attachment = self._attachment()
                self.clock.admitted()
                self._begin_again(attachment)
            except SessionLost as again:
                what = str(again).splitlines()[0]
            else:
                self.count += 1
                self.clock.completed()
                return

    def _attachment(self) -> A:
        """Open an attachment; a daemon that refuses may be one that ends, and another one begin in its place."""
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                return self._reopen()
            except DaemonUnavailable:
                if time.monotonic() + PAUSE_S > deadline:
                    raise
            time.sleep(PAUSE_S)
