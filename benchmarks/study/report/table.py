"""A table of text, for Markdown and for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: In file names and in the marks of pages.
        title: For people.
        columns: Heads; those of `words` columns are aligned left, the others right.
        rows: Cells.
        words: How many columns from the left hold words.
        note: What a reader must know, below the table.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 2
    note: str = ""

    def markdown(self) -> str:
        """Return the table as GitHub's Markdown, with its title and note."""
        marks = [":---" if i < self.words else "---:" for i in range(len(self.columns))]
        lines = [f"**{self.title}**", "", _line(self.columns), _line(marks), *map(_line, self.rows)]
        lines += ["", self.note] if self.note else []
        return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def seconds(value: float | None) -> str:
    """Return a time with a unit that suits it."""
    if value is None:
        return NOT_MEASURED
    size = abs(value)
    return f"{value:.3f} s" if size >= 1 else f"{value * 1e3:.2f} ms" if size >= 1e-3 else f"{value * 1e6:.0f} us"


def nbytes(value: float | None) -> str:
    """Return bytes, whole."""
    return NOT_MEASURED if value is None else f"{value:,.0f}"


def megabytes(value: int | None) -> str:
    """Return bytes as megabytes."""
    return NOT_MEASURED if value is None else f"{value / 1e6:,.0f}"


def share(value: float | None, digits: int = 0) -> str:
    """Return a share in percent."""
    return NOT_MEASURED if value is None else f"{value * 100:.{digits}f}"


def ratio(value: float | None) -> str:
    """Return how many times."""
    if value is None:
        return NOT_MEASURED
    return f"{value:,.0f} x" if abs(value) >= 100 else f"{value:.1f} x"
