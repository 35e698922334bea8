"""The programs that a session has sent: their numbers, and the lines of the user's program behind them."""

from __future__ import annotations

import warnings

from dynamo_genie.errors import EngineWarning
from dynamo_genie.runtime.wire import messages as m


class KnownPrograms:
    """The programs of one session by digest and engine, and their source lines, node by node."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[bytes, str], int] = {}
        self._lines: dict[int, tuple[str | None, ...]] = {}

    def number(self, digest: bytes, engine: str) -> int | None:
        """Return the number of a program; None when it was not sent yet."""
        return self._numbers.get((digest, engine))

    def add(self, number: int, digest: bytes, engine: str, lines: tuple[str | None, ...]) -> None:
        """Remember a program that was sent."""
        self._numbers[digest, engine] = number
        self._lines[number] = lines

    def copy(self) -> KnownPrograms:
        """Return the same programs, to go on apart."""
        copy = KnownPrograms()
        copy._numbers, copy._lines = dict(self._numbers), dict(self._lines)
        return copy

    def line(self, error: m.ErrorInfo) -> str | None:
        """Return the line of the user's program behind the operator that failed."""
        lines = self._lines.get(error.program, ())
        return lines[error.node] if 0 <= error.node < len(lines) else None

    def warn(self, news: m.EngineFellBack) -> None:
        """Warn that a program runs with another engine than it was meant for."""
        line = next((line for line in self._lines.get(news.program, ()) if line), None)
        where = f"the graph that begins at {line}" if line else f"program {news.program}"
        warnings.warn(f"{where} runs eager in the daemon: {news.reason}", EngineWarning, stacklevel=2)
