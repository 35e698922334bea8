"""What a session does when its worker has died: goes on at another one, where everything is as it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from dynamo_genie.errors import DaemonUnavailable, RequestTimeout, SessionLost
from dynamo_genie.runtime.recovery.journal import Journal
from dynamo_genie.runtime.recovery.notes import Notes
from dynamo_genie.runtime.recovery.recovered import RecoveryClock
from dynamo_genie.runtime.recovery.saving import Saving

MAX_DEATHS = 3
"""So many workers may die of the same: then it is taken for the cause."""

PAUSE_S = 0.2
"""Between two tries to be let in by a daemon that refuses at once: it ends, or has just begun."""

T = TypeVar("T")
A = TypeVar("A")


class Recovery(Generic[A]):
    """Recovers one session, under the session's lock.

    Attributes:
        notes: What the journal is still to be told.
        saving: What of it is saved.
        going_on: Whether another worker may take the place of one that died.
        count: How often one did.
        clock: Times it.
    """

    def __init__(
        self, device: str, reopen: Callable[[], A], elsewhere: Callable[[DaemonUnavailable], None], patience_s: float
    ) -> None:
        """Recover with these means.

        Args:
            device: The kind of device that workers compute on.
            reopen: Opens an attachment to a worker that knows nothing.
            elsewhere: Lets the session go on at another worker, and those with it that it cannot do without.
            patience_s: How long to try to open an attachment.
        """
        self.notes = Notes(Journal(device))
        self.saving = Saving(self.notes)
        self.going_on = True
        self.count = 0
        self.clock = RecoveryClock()
        self._reopen = reopen
        self._elsewhere = elsewhere
        self._patience_s = patience_s
        self._inside = False
        self._deaths = 0

    @property
    def journal(self) -> Journal:
        """What there is to recover."""
        return self.notes.journal

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
        try:
            with self.occupied():
                self._elsewhere(error)
        except Exception:
            self.going_on = False
            raise
        return True

    @contextmanager
    def occupied(self) -> Iterator[None]:
        """Let nothing that fails meanwhile begin another recovery of this session."""
        before, self._inside = self._inside, True
        try:
            yield
        finally:
            self._inside = before

    def heard(self, request_id: int) -> None:
        """Note that a worker has answered a request: what was asked has killed none."""
        pending = self.journal.pending
        if pending is not None and pending.request_id == request_id:  # type: ignore[union-attr]  # all such have one
            self.journal.answered()
        if not self._inside:
            self._deaths = 0
        self.journal.heard = self.journal.order  # whoever waits has asked for nothing since

    def require_going_on(self, error: DaemonUnavailable) -> None:
        """Raise an error where no other worker is to take the place of one that died."""
        if not self.going_on:
            raise SessionLost(str(error)) from error

    def died(self, what: str) -> None:
        """Note that a worker died.

        Raises:
            SessionLost: So many did that what the session asks for is taken for the cause.
        """
        self._deaths += 1
        if self._deaths > MAX_DEATHS:
            raise SessionLost(
                f"{MAX_DEATHS} workers ended one after the other while they did what this session asks for; "
                f"the last one: {what}"
            )

    def recovered(self) -> None:
        """Note that another worker has taken the place of the last one, and has done all that it was told."""
        self.count += 1
        self.clock.completed()
        self.journal.heard = self.journal.order

    def attachment(self) -> A:
        """Open an attachment; a daemon that refuses may be one that ends, and another one begin in its place.

        Raises:
            DaemonUnavailable: There is none, for as long as the session is patient.
        """
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                return self._reopen()
            except DaemonUnavailable:
                if time.monotonic() + PAUSE_S > deadline:
                    raise
            time.sleep(PAUSE_S)
