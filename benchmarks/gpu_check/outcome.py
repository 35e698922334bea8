"""Where a stage writes down what it finds, at once: what it has found stays when it is killed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any
from warnings import catch_warnings, simplefilter

import msgspec

from dynamo_genie.bench.gpu_check.records import StageReport, write_record
from dynamo_genie.bench.report import Figure
from dynamo_genie.errors import EngineWarning


class Outcome:
    """The report of one stage, kept in a file; what else it leaves belongs in the same folder."""

    def __init__(self, path: Path) -> None:
        """Begin with nothing."""
        self._path = path
        self.folder = path.parent
        self.report = StageReport()

    def add(
        self, figures: Sequence[Figure] = (), *, note: str = "", details: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        """Write down figures, a sentence, and details by name."""
        before = self.report
        self._change(
            figures=(*before.figures, *figures),
            notes=(*before.notes, note) if note and note not in before.notes else before.notes,
            details={**before.details, **details},
        )

    def fail(self, error: BaseException) -> None:
        """Write down what ended the stage."""
        first = next(iter(str(error).splitlines()), "")
        self._change(error=f"{type(error).__name__}: {first}")

    def complete(self) -> None:
        """Write down that the stage came to its end."""
        self._change(complete=True)

    @contextmanager
    def noting_fallbacks(self) -> Iterator[None]:
        """Note why programs run eager though another engine was asked for."""
        notes: list[str] = []
        try:
            with caught_fallbacks() as notes:
                yield
        finally:
            for note in notes:
                self.add(note=note)

    def _change(self, **changes: Any) -> None:
        self.report = msgspec.structs.replace(self.report, **changes)
        write_record(self._path, self.report)


@contextmanager
def caught_fallbacks() -> Iterator[list[str]]:
    """Yield a list that has, after the block, why programs run eager though another engine was asked for."""
    notes: list[str] = []
    with catch_warnings(record=True) as caught:
        simplefilter("always", EngineWarning)
        try:
            yield notes
        finally:
            for warning in caught:
                say(f"warning: {warning.message}")
                if issubclass(warning.category, EngineWarning):
                    _, _, why = str(warning.message).partition(" in the daemon: ")
                    notes.append(f"a program runs eager: {why}")


def say(text: str) -> None:
    """Tell the log what comes next."""
    print("-", text, flush=True)
