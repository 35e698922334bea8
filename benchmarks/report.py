"""How measurements are shown: a table with the floor beside each figure, and JSON with the machine's description."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from rich import box
from rich.console import Console
from rich.table import Table

from dynamo_genie.bench.machine import describe_machine

Say = Callable[[str], None]
"""Told what comes next, in a measurement that takes its time."""


@dataclass(frozen=True)
class Figure:
    """One measured number, the floor it is compared with, and what it should be.

    Attributes:
        name: What was measured.
        value: Our number.
        unit: Of `value` and `floor`.
        floor: The same work without us, measured in the same run; None where there is none.
        judged: What the target limits: `value` itself, or its ratio to or difference from the floor.
        target: For people.
        passed: Whether the target was met; None where none is set.
    """

    name: str
    value: float
    unit: str
    floor: float | None = None
    judged: float | None = None
    target: str = ""
    passed: bool | None = None


@dataclass(frozen=True)
class Measured:
    """What one benchmark found: figures for people, everything else for programs."""

    figures: Sequence[Figure]
    details: Mapping[str, Any]


def at_most(name: str, value: float, unit: str, limit: float) -> Figure:
    """A figure that must not pass a limit."""
    return Figure(name, value, unit, None, value, f"<= {limit:g} {unit}", value <= limit)


def at_least(name: str, value: float, unit: str, limit: float) -> Figure:
    """A figure that must reach a limit."""
    return Figure(name, value, unit, None, value, f">= {limit:g} {unit}", value >= limit)


def at_most_times(name: str, value: float, floor: float, unit: str, limit: float) -> Figure:
    """A figure that may be `limit` times its floor."""
    ratio = value / floor
    return Figure(name, value, unit, floor, ratio, f"<= {limit:g} x floor", ratio <= limit)


def at_least_times(name: str, value: float, floor: float, unit: str, limit: float) -> Figure:
    """A figure that must reach `limit` times its floor."""
    ratio = value / floor
    return Figure(name, value, unit, floor, ratio, f">= {limit:g} x floor", ratio >= limit)


def at_most_above(name: str, value: float, floor: float, unit: str, limit: float) -> Figure:
    """A figure that may exceed its floor by `limit`."""
    return Figure(name, value, unit, floor, value - floor, f"<= {limit:g} {unit} above", value - floor <= limit)


def table_of(title: str, figures: Iterable[Figure]) -> Table:
    """Lay figures out for a terminal."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("measured")
    for column in ("ours", "floor", "judged", "target", ""):
        table.add_column(column, justify="right", no_wrap=True)
    for figure in figures:
        verdict = "" if figure.passed is None else "[green]pass[/]" if figure.passed else "[bold red]FAIL[/]"
        floor = "" if figure.floor is None else f"{figure.floor:,.4g} {figure.unit}"
        judged = "" if figure.judged is None else f"{figure.judged:,.4g}"
        table.add_row(figure.name, f"{number(figure.value)} {figure.unit}", floor, judged, figure.target, verdict)
    return table


def number(value: float) -> str:
    """Return a number with four digits, whole above a thousand."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def make_console(file: IO[str] | None = None) -> Console:
    """Return a console as wide as the terminal, or wide enough for the tables where there is none."""
    return Console(file=file, width=None if file is None and sys.stdout.isatty() else 120)


def show(console: Console, title: str, figures: Sequence[Figure]) -> None:
    """Print a table and, below it, the machine it was measured on."""
    console.print(table_of(title, figures))
    console.print("  ".join(f"{name} {value}" for name, value in describe_machine().items()), style="dim")


def write_json(path: str | Path, name: str, results: Mapping[str, Any], figures: Sequence[Figure] = ()) -> None:
    """Write results, figures and the machine's description to a file; its folder is made."""
    record = {"benchmark": name, "machine": describe_machine(), "figures": [asdict(f) for f in figures], **results}
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def read_figures(path: Path) -> Mapping[str, Any] | None:
    """Return what `write_json` wrote; None where a file is something else."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, no JSON, or no text: who reads studies says so
        return None
    return record if isinstance(record, dict) and "benchmark" in record else None


def page_of(record: Mapping[str, Any], name: str) -> str:
    """Return the figures of a measurement as a page of Markdown; the same record gives the same page."""
    machine, plan = (", ".join(f"{key} {value}" for key, value in record.get(part, {}).items()) for part in _ABOUT)
    lines = [
        f"# {record['benchmark']}: {name}",
        "",
        f"- Machine: {machine}",
        *([f"- Measured: {plan}"] if plan else []),
    ]
    lines += ["", "| measured | | floor | target | |", "|---|---|---|---|---|"]
    for figure in (Figure(**each) for each in record["figures"]):
        verdict = "" if figure.passed is None else "pass" if figure.passed else "**FAIL**"
        floor = "" if figure.floor is None else f"{number(figure.floor)} {figure.unit}"
        value = f"{number(figure.value)} {figure.unit}".strip()
        lines.append(f"| {figure.name} | {value} | {floor} | {figure.target.strip()} | {verdict} |")
    return "\n".join(lines) + "\n"


_ABOUT = ("machine", "plan")


def summary(samples: Sequence[float], scale: float = 1.0) -> dict[str, float]:
    """Return median, quartiles and minimum of some samples, times `scale`."""
    low, _, high = statistics.quantiles(samples, n=4) if len(samples) > 1 else (samples[0],) * 3
    return {
        "median": statistics.median(samples) * scale,
        "low_quartile": low * scale,
        "high_quartile": high * scale,
        "minimum": min(samples) * scale,
        "samples": len(samples),
    }
