"""The command stream of one session: batches once each, in sequence, suspended where one has to wait.

Stands between the executor, which has batches, and the session, which executes commands. When a command cannot run
yet, the rest of its batch and later batches wait here, so that the executor can serve other sessions meanwhile.
Sans-IO; time is passed in. Knows nothing of what the commands do.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

from dynamo_genie.errors import SessionLost
from dynamo_genie.runtime.wire import messages as m

MAX_WAITING_NBYTES = 16 << 20
MAX_WAITING_BATCHES = 1 << 18
"""What may wait behind a suspended command; a client stops by itself long before, at 8 MiB without an answer."""


@dataclass(frozen=True)
class NotYet:
    """What a command returns that cannot run yet; after `timeout_s` it is told that its time is over."""

    timeout_s: float


Outcome: TypeAlias = "m.WorkerToClient | NotYet | None"


class CommandRunner(Protocol):
    """A session, as far as its commands go."""

    def execute(self, command: m.Command, now: float, *, overdue: bool) -> Outcome:
        """Run a command; `overdue` says that it has waited for as long as it wanted to, and must end now."""
        ...

    def take_news(self) -> m.WorkerToClient | None:
        """Return what the client should hear before its next answer, if anything."""
        ...

    def close(self) -> None:
        """Free everything the session holds."""
        ...


S = TypeVar("S", bound=CommandRunner)


class CommandStream(Generic[S]):
    """The stream of one session: takes batches, returns replies.

    Call `resume` when what is waited for may be there, at `due` at the latest.
    """

    def __init__(self, session: S) -> None:
        self.session = session
        self._sequence = 0
        self._running = 0
        self._commands: tuple[m.Command, ...] = ()
        self._position = 0
        self._replies: list[m.WorkerToClient] = []
        self._deadline: float | None = None
        self._waiting: deque[tuple[m.Batch, int]] = deque()
        self._waiting_nbytes = 0
        self._broken = ""

    @property
    def due(self) -> float | None:
        """When to call `resume` at the latest; None when nothing is left to do, 0 when there is work at once."""
        if self._deadline is not None:
            return self._deadline
        return 0.0 if self._waiting else None

    def take(self, batch: m.Batch, nbytes: int, now: float) -> list[m.WorkerToClient]:
        """Run a batch of `nbytes` encoded bytes, or keep it until its turn; return the replies there are.

        A batch that was seen before only repeats the replies that it has so far.

        Raises:
            SessionLost: A batch is missing, or more wait than may wait.
        """
        if self._broken:
            raise SessionLost(self._broken)
        if batch.sequence <= self._sequence:
            return list(self._replies) if batch.sequence == self._running else []
        if batch.sequence != self._sequence + 1:
            raise SessionLost(f"batch {batch.sequence} came after {self._sequence}: some between were lost")
        self._sequence = batch.sequence
        if self.due is not None:
            self._keep(batch, nbytes)
            return []
        self._begin(batch)
        return self._advance(now)

    def resume(self, now: float) -> list[m.WorkerToClient]:
        """Go on with the batch in hand, or begin the next one; return the new replies."""
        if self._deadline is None and self._waiting:
            batch, nbytes = self._waiting.popleft()
            self._waiting_nbytes -= nbytes
            self._begin(batch)
        return self._advance(now)

    def close(self) -> None:
        """Forget what waits, and close the session."""
        self._forget()
        self.session.close()

    def _forget(self) -> None:
        self._waiting.clear()
        self._commands, self._position, self._deadline = (), 0, None
        self._waiting_nbytes = 0

    def _begin(self, batch: m.Batch) -> None:
        self._running, self._commands, self._position, self._replies = batch.sequence, batch.commands, 0, []

    def _advance(self, now: float) -> list[m.WorkerToClient]:
        already = len(self._replies)
        while self._position < len(self._commands):
            overdue = self._deadline is not None and now >= self._deadline
            outcome = self.session.execute(self._commands[self._position], now, overdue=overdue)
            if isinstance(outcome, NotYet):
                if self._deadline is None:
                    self._deadline = now + outcome.timeout_s
                break
            self._deadline = None
            self._position += 1
            if outcome is not None:
                news = self.session.take_news()
                self._replies += [outcome] if news is None else [news, outcome]
        return self._replies[already:]

    def _keep(self, batch: m.Batch, nbytes: int) -> None:
        if len(self._waiting) >= MAX_WAITING_BATCHES or self._waiting_nbytes + nbytes > MAX_WAITING_NBYTES:
            self._forget()
            self._broken = (
                f"more than {MAX_WAITING_NBYTES:,} bytes or {MAX_WAITING_BATCHES:,} batches of commands wait for a "
                "tensor of another daemon; wait for an answer now and then"
            )
            raise SessionLost(self._broken)
        self._waiting.append((batch, nbytes))
        self._waiting_nbytes += nbytes
