"""Prints the labelled table below the tests that filled it."""

from __future__ import annotations

from typing import Any

_COLUMNS = "family cache step labelled found invented expected phase".split()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print one line a call, and what went wrong last."""
    reports = [report for name in ("passed", "failed") for report in terminalreporter.stats.get(name, [])]
    rows = [row for report in reports for key, row in report.user_properties if key == "labelled"]
    if rows:
        terminalreporter.section("labelled table: KV tensors before and after each call")
        for line in _table(rows):
            terminalreporter.write_line(line)


def _table(rows: list[dict[str, Any]]) -> list[str]:
    cells = [_COLUMNS, *([str(row[column]) for column in _COLUMNS] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(_COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    total, found, invented = (sum(row[column] for row in rows) for column in ("labelled", "found", "invented"))
    right = sum(row["expected"] == row["phase"] for row in rows)
    n_families = len({row["family"] for row in rows})
    summary = f"{n_families} families, {len(rows)} calls: {found} of {total} KV tensors found, {invented} invented, "
    return [*lines, f"{summary}{right} of {len(rows)} phases right"]
