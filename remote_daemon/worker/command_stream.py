"""The command stream of one session: batches once each, in sequence, suspended where one has to wait.

Stands between the executor, which has batches, and the session, which executes commands. When a command cannot run
yet, or the session's turn is over, the rest of its batch waits here, so that the executor can serve others meanwhile.
Answers are remembered until the client has heard them, so that it may lose its connection at any moment.
Sans-IO; time is passed in. Knows nothing of what the commands do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

from dynamo_genie.errors import QuotaExceeded, SessionLost
from dynamo_genie.remote_daemon.channel.answer_nbytes import answer_nbytes
from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.limits import ACKNOWLEDGE_BATCHES, ACKNOWLEDGE_NBYTES

MAX_UNHEARD_NBYTES = 16 << 20
"""What may be remembered of answers; a client waits for each answer, and says with its next batch that it came."""

FREE_UNHEARD_NBYTES = 64 << 10
"""Answers that take no more than this are not counted against the memory limit: an ordinary client's, that is."""


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

    def cancel(self, command: m.Command, now: float, *, overdue: bool) -> Outcome:
        """Run a command that nobody waits for any more, or let it fail."""
        ...

    def take_news(self) -> m.WorkerToClient | None:
        """Return what the client should hear before its next answer, if anything."""
        ...

    def close(self) -> None:
        """Free everything the session holds."""
        ...


S = TypeVar("S", bound=CommandRunner)


_LONG = (m.Call, m.RegisterProgram, m.LoadWeights, m.ListModels, m.DescribeModel)
"""What a session's turn ends before. A fetch still follows the call in its batch: nothing else would come of it."""


def _never() -> bool:
    return False


class CommandStream(Generic[S]):
    """The stream of one session: takes batches, returns replies.

    While it is `unfinished`, call `resume`: when what is waited for may be there, or at the session's next turn.

    Attributes:
        cancelled: For what the batches up to this one make nobody waits any more. Another thread may raise it.
        due: When what the command in hand waits for is overdue; None where it waits for nothing.
        ended: Whether the session is over, and nothing more need run. Another thread may set it.
    """

    def __init__(self, session: S, budget: MemoryBudget | None = None) -> None:
        """Run what comes by `session`; answers that are remembered count in `budget`, that of host memory."""
        self.session = session
        self.cancelled = 0
        self.ended = False
        self._budget = budget
        self._paid_nbytes = 0
        self._sequence = 0
        self._commands: tuple[m.Command, ...] = ()
        self._position = 0
        self.due: float | None = None
        self._unheard: dict[int, list[m.WorkerToClient]] = {}
        self._unheard_nbytes = 0
        self._unsaid_batches = self._unsaid_nbytes = 0
        self._broken = ""

    @property
    def unfinished(self) -> bool:
        """Whether commands of the batch in hand have yet to run."""
        return self._position < len(self._commands)

    def take(
        self, batch: m.Batch, nbytes: int, now: float, over: Callable[[], bool] = _never
    ) -> list[m.WorkerToClient]:
        """Run a batch of `nbytes` encoded bytes until the session's turn is `over`; return the replies there are.

        A batch that was seen before only repeats the replies to it; one that does not follow the last one is dropped,
        and the client told to attach again.

        Raises:
            SessionLost: The client hears no answers.
        """
        assert self._position == len(self._commands)
        if self._broken:
            raise SessionLost(self._broken)
        self._forget_heard(batch.heard)
        if batch.sequence <= self._sequence:
            return list(self._unheard.get(batch.sequence, ()))
        if batch.sequence != self._sequence + 1:
            return [m.Detached()]
        self._sequence, self._commands, self._position = batch.sequence, batch.commands, 0
        self._unsaid_batches += 1
        self._unsaid_nbytes += nbytes
        return self._advance(now, over)

    def resume(self, now: float, over: Callable[[], bool] = _never) -> list[m.WorkerToClient]:
        """Go on with the batch in hand; return the new replies."""
        return self._advance(now, over)

    def attached(self, request_id: int) -> list[m.WorkerToClient]:
        """Return what a new connection of the client is told: what has come, what has run, answers it has not heard."""
        told: list[m.WorkerToClient] = [m.Attached(request_id, self._sequence)]
        if self._sequence:
            told.append(m.Acknowledged(self._executed))
        for replies in self._unheard.values():
            told += replies
        return told

    def close(self) -> None:
        """Forget what waits, and close the session."""
        self._forget()
        self.session.close()

    @property
    def unwanted(self) -> bool:
        """Whether something runs, or is to run, that nobody waits for. For any thread."""
        return self.ended or self._executed < self.cancelled

    @property
    def running_unwanted(self) -> bool:
        """Whether nobody waits for what the batch in hand makes. For any thread."""
        return self.ended or self._sequence <= self.cancelled

    @property
    def _executed(self) -> int:
        """The last batch of which every command has run."""
        return self._sequence - self.unfinished

    def _forget(self) -> None:
        self._unheard.clear()
        self._unheard_nbytes = 0
        self._pay_for_unheard()
        self._commands, self._position, self.due = (), 0, None

    def _forget_heard(self, heard: int) -> None:
        for sequence in [sequence for sequence in self._unheard if sequence <= heard]:
            self._unheard_nbytes -= sum(map(answer_nbytes, self._unheard.pop(sequence)))
        if self._paid_nbytes > self._unheard_nbytes:
            self._pay_for_unheard()

    def _advance(self, now: float, over: Callable[[], bool]) -> list[m.WorkerToClient]:
        replies: list[m.WorkerToClient] = []
        commands = self._commands
        while self._position < len(commands) and not self.ended:
            overdue = self.due is not None and now >= self.due
            run = self.session.cancel if self._sequence <= self.cancelled else self.session.execute
            outcome = run(commands[self._position], now, overdue=overdue)
            if isinstance(outcome, NotYet):
                if self.due is None:
                    self.due = now + outcome.timeout_s
                break
            self.due = None
            self._position += 1
            if outcome is not None:
                news = self.session.take_news()
                replies += [outcome] if news is None else [news, outcome]
            if self._position < len(commands) and isinstance(commands[self._position], _LONG) and over():
                break
        if replies:
            self._remember(replies)
        return self._acknowledge(replies)

    def _remember(self, replies: list[m.WorkerToClient]) -> None:
        self._unheard.setdefault(self._sequence, []).extend(replies)
        self._unheard_nbytes += sum(map(answer_nbytes, replies))
        if self._unheard_nbytes > MAX_UNHEARD_NBYTES:
            raise self.give_up(
                f"more than {MAX_UNHEARD_NBYTES:,} bytes of answers were sent of which the client has heard none"
            )
        if self._unheard_nbytes > FREE_UNHEARD_NBYTES:
            self._pay_for_unheard()

    def _pay_for_unheard(self) -> None:
        """Count what is remembered, and the message of it that waits to be read, where it is more than a little."""
        nbytes = 2 * self._unheard_nbytes if self._unheard_nbytes > FREE_UNHEARD_NBYTES else 0
        if self._budget is None or nbytes == self._paid_nbytes:
            return
        self._budget.release_overhead(self._paid_nbytes)
        self._paid_nbytes = 0
        if not nbytes:
            return
        try:
            self._budget.reserve_overhead(nbytes, "remembering answers that the client has not heard")
        except QuotaExceeded as error:
            raise self.give_up(str(error)) from error
        self._paid_nbytes = nbytes

    def _acknowledge(self, replies: list[m.WorkerToClient]) -> list[m.WorkerToClient]:
        """Add to replies that what came has run, where neither they say so nor an earlier one did lately."""
        if replies and replies[-1].request_id:
            self._unsaid_batches = self._unsaid_nbytes = 0
        elif self._unsaid_batches >= ACKNOWLEDGE_BATCHES or self._unsaid_nbytes >= ACKNOWLEDGE_NBYTES:
            self._unsaid_batches = self._unsaid_nbytes = 0
            return [*replies, m.Acknowledged(self._executed)]
        return replies

    def give_up(self, reason: str) -> SessionLost:
        """End the session for good; return the error that says why."""
        self._forget()
        self._broken = reason
        return SessionLost(reason)
