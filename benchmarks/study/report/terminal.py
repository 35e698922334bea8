"""The tables of the study on a terminal; what is too wide comes in pieces, each with the columns that name its rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from dynamo_genie.bench.study.report.table import Table

_GAP = 3


def show_tables(console: Console, tables: Iterable[Table]) -> None:
    """Print tables, each with its note."""
    for table in tables:
        for number, columns in enumerate(pieces(table, console.width)):
            title = table.title if number == 0 else f"{table.title} (continued)"
            shown = RichTable(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
            for i in columns:
                shown.add_column(table.columns[i], justify="left" if i < table.words else "right", overflow="fold")
            for row in table.rows:
                shown.add_row(*(row[i] for i in columns))
            console.print(shown)
        console.print(table.note, style="dim", markup=False)


def pieces(table: Table, width: int) -> Iterator[list[int]]:
    """Yield the columns of each piece; columns of words are in all of them, the others in one, in order."""
    words = list(range(table.words))
    room = width - sum(_width(table, i) for i in words)
    piece: list[int] = []
    for i in range(table.words, len(table.columns)):
        if piece and sum(_width(table, each) for each in (*piece, i)) > room:
            yield words + piece
            piece = []
        piece.append(i)
    yield words + piece


def _width(table: Table, column: int) -> int:
    """Return how wide a column must be; its head may be broken between words."""
    head = max(map(len, table.columns[column].split()), default=0)
    return max(head, *(len(row[column]) for row in table.rows), 0) + _GAP
