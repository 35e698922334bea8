"""`genie bench report`: tables and plots from the study's documents. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from dynamo_genie.bench.report import make_console
from dynamo_genie.bench.study.records import read_study
from dynamo_genie.bench.study.report.document import files_of, heading, tables_of
from dynamo_genie.bench.study.report.pages import filled
from dynamo_genie.bench.study.report.terminal import show_tables
from dynamo_genie.errors import GenieError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def report(
    documents: Annotated[list[Path], typer.Argument(help="Documents of the study, RESULTS.json")],
    docs: Annotated[Path | None, typer.Option(help="A page whose tables are to be filled in again")] = None,
    results: Annotated[Path, typer.Option(help="Where the documents that the page names are")] = Path(
        "benchmarks/results"
    ),
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail where a file would change")] = False,
) -> None:
    """Write NAME.md, and NAME-PLOT.png and .svg, beside each NAME.json; the same document gives the same bytes."""
    files: dict[Path, bytes] = {}
    for path in documents:
        made = files_of(read_study(path), path.stem)
        files.update({path.parent / name: content for name, content in made.items()})
    if docs is not None:
        files[docs] = filled(_text(docs), results).encode()
    changed = [path for path, content in files.items() if not path.exists() or path.read_bytes() != content]
    if check:
        for path in changed:
            print(f"differs: {path}")
        raise typer.Exit(1 if changed else 0)
    for path in changed:
        path.write_bytes(files[path])
    print(f"{len(files)} files, {len(changed)} of them new or changed")


def write_reports(documents: Sequence[Path]) -> None:
    """Print the tables of documents and write their reports beside them."""
    console = make_console()
    for path in documents:
        study = read_study(path)
        console.print(heading(study, path.stem), markup=False, highlight=False)
        show_tables(console, tables_of(study))
        for name, content in files_of(study, path.stem).items():
            (path.parent / name).write_bytes(content)
        console.print(f"{path} and its report are in {path.parent.resolve()}", markup=False, highlight=False)


def _text(page: Path) -> str:
    try:
        return page.read_text(encoding="utf-8")
    except OSError as error:
        raise GenieError(f"cannot read {page}: {error.strerror}") from None


if __name__ == "__main__":
    app()
