"""Operators that run on the client because no daemon has them: each is announced once, and every run is counted."""

from __future__ import annotations

import re
import threading
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from dynamo_genie.errors import ClientOperatorWarning

_PLACE = re.compile(r'File "(?P<file>.*)", line (?P<line>\d+)')


@dataclass(frozen=True)
class ClientOperator:
    """An operator that no daemon runs, where the program calls it.

    Attributes:
        reason: What no daemon runs: the operator, or what it is given.
        line: As in a stack trace: 'File "x.py", line 3, in forward: code'; None where nobody knows.
    """

    name: str
    reason: str
    line: str | None

    def __str__(self) -> str:
        return f"{self.name} ({self.line})" if self.line else self.name


class ClientWork:
    """What this process ran of graphs that daemons run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._announced: set[ClientOperator] = set()
        self._runs: Counter[ClientOperator] = Counter()

    def announce(self, operator: ClientOperator, cost: str) -> None:
        """Warn, at the line of the program, that an operator runs here and what that costs; once in a process."""
        with self._lock:
            if operator in self._announced:
                return
            self._announced.add(operator)
        place = _PLACE.search(operator.line or "")
        warnings.warn_explicit(
            f"{operator.reason} cannot run in a daemon and runs on the client: {cost}. "
            "dynamo_genie.stats() counts its runs; the option unsupported='error' refuses it",
            ClientOperatorWarning,
            place["file"] if place else "<unknown>",
            int(place["line"]) if place else 0,
        )

    def ran(self, operators: Iterable[ClientOperator]) -> None:
        """Count one run of each."""
        with self._lock:
            self._runs.update(operators)

    def runs(self) -> dict[str, int]:
        """Return how often each operator ran, by its name and line."""
        with self._lock:
            return {str(operator): count for operator, count in self._runs.items()}

    def reset(self) -> None:
        """Start counting from zero."""
        with self._lock:
            self._runs.clear()
