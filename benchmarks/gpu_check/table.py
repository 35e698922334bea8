"""A visit as text: a line a stage, then what each found."""

from __future__ import annotations

from io import StringIO

from rich import box
from rich.console import Console
from rich.table import Table

from dynamo_genie.bench.gpu_check.records import StageResult, Visit
from dynamo_genie.bench.report import table_of

WIDTH = 132


def text_of(visit: Visit) -> str:
    """Lay a visit out as plain text."""
    text = StringIO()
    console = Console(file=text, width=WIDTH)
    console.print(_stages(visit))
    for stage in visit.stages:
        if stage.report.figures:
            console.print(table_of(f"{stage.letter} {stage.name}", stage.report.figures))
        for note in stage.report.notes:
            console.print(f"{stage.letter}: {note}", markup=False, highlight=False)
    machine = "  ".join(f"{name} {value}" for name, value in visit.machine.items())
    console.print(f"{visit.started}  {machine}", markup=False, highlight=False)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def line_of(stage: StageResult) -> str:
    """Say in a line how a stage went."""
    why = f": {stage.reason}" if stage.reason else ""
    return f"{stage.letter} {stage.name}: {stage.state} in {stage.seconds:.0f} s{why}"


def _stages(visit: Visit) -> Table:
    title = "Rehearsal of the GPU check, tiny models on the CPU" if visit.rehearsal else "GPU check"
    table = Table(title=f"{title}, at most {visit.budget_s:g} s", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("stage", "state", "seconds", "limit", "what", "why"):
        table.add_column(column, justify="right" if column in ("seconds", "limit") else "left")
    for stage in visit.stages:
        table.add_row(
            f"{stage.letter} {stage.name}", stage.state, f"{stage.seconds:.1f}" if stage.seconds else "",
            f"{stage.limit_s:g}", stage.what, stage.reason,
        )  # fmt: skip
    return table
