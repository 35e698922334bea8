"""The tables of the study on a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from dynamo_genie.bench.study.report.table import Table


def show_tables(console: Console, tables: Iterable[Table]) -> None:
    """Print tables, each with its note."""
    for table in tables:
        shown = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for i, column in enumerate(table.columns):
            shown.add_column(column, justify="left" if i < table.words else "right", overflow="fold")
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
        console.print(table.note, style="dim", markup=False)
