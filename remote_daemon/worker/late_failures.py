"""The failures of one session's commands: numbered, and kept until the client is told of them."""

from __future__ import annotations

import msgspec

from dynamo_genie.remote_daemon.worker.failures import describe_failure
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.limits import MAX_LATE


class FailureLog:
    """Numbers failures, and keeps those that have no answer of their own."""

    def __init__(self) -> None:
        self._number = 0
        self._late: list[m.ErrorInfo] = []
        self._omitted = 0

    def record(self, error: Exception, command: m.Command, calls: int, *, answered: bool) -> m.ErrorInfo:
        """Return the record of a failure: a new one, or that of the first failure from which it follows.

        Args:
            error: What was raised.
            command: What raised it.
            calls: How many calls the session had taken, this command included.
            answered: Whether the answer to the command will tell of it.
        """
        failure = describe_failure(error, type(command).__name__, getattr(command, "program", -1))
        if failure.number:
            return failure
        self._number += 1
        call = calls if isinstance(command, m.Call) else 0 if answered else calls + 1  # it prepares the next one
        failure = msgspec.structs.replace(failure, number=self._number, call=call)
        if not answered:
            self._keep(failure)
        return failure

    def take(self) -> m.LateFailures | None:
        """Return what was kept since the last time."""
        if not self._late:
            return None
        news = m.LateFailures(tuple(self._late), self._omitted)
        self._late.clear()
        self._omitted = 0
        return news

    def _keep(self, failure: m.ErrorInfo) -> None:
        """Keep a failure; of many the first ones, since later ones often follow from them."""
        if len(self._late) < MAX_LATE:
            self._late.append(failure)
        else:
            self._omitted += 1
