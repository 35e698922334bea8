"""`genie explain`: runs a script with dumps on, and prints the plan of every graph that it compiled."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from dynamo_genie.errors import GenieError, OptionError
from dynamo_genie.explain.chrome_trace import chrome_trace
from dynamo_genie.explain.records import GraphReport, from_json
from dynamo_genie.explain.terminal import render

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(context_settings={"ignore_unknown_options": True})  # those belong to the script
def explain(
    script: Annotated[Path, typer.Argument(help="A Python script that compiles with backend='genie'")],
    arguments: Annotated[list[str] | None, typer.Argument(help="What the script finds in sys.argv")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the plans as JSON; what the script prints goes to stderr")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Keep the dumps, report.html among them, in this folder")] = None,
    html: Annotated[Path | None, typer.Option(help="Another name for --out")] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Write calls over time, predicted and measured, to this file, for Perfetto")
    ] = None,
) -> None:
    """Run a script and print what became of its graphs; exits as the script does.

    The options below may stand before or after the script; all others are the script's, and so is all behind `--`.
    """
    if not script.is_file():
        raise OptionError(f"there is no script {str(script)!r}")
    if trace is not None and not trace.parent.is_dir():
        raise OptionError(f"there is no folder {str(trace.parent)!r} for the trace")
    kept = out or html
    with ExitStack() as stack:
        temporary = "" if kept else stack.enter_context(tempfile.TemporaryDirectory(prefix="genie-explain-"))
        folder = (kept or Path(temporary)).absolute()
        before = set(_plans(folder))
        code = _run(script, arguments or [], folder, quiet=as_json)
        reports = [from_json(path.read_bytes()) for path in _plans(folder) if path not in before]
    _print(reports, as_json)
    if kept and reports:
        print(f"reports: {folder}/*/report.html", file=sys.stderr)
    if trace is not None and reports:
        trace.write_bytes(chrome_trace(reports))
        print(f"trace: {trace.absolute()}, for https://ui.perfetto.dev", file=sys.stderr)
    if code:
        raise typer.Exit(code)
    if not reports:
        raise GenieError(f"{script} compiled nothing with backend='genie', or sets debug_dir itself")


def _run(script: Path, arguments: list[str], folder: Path, *, quiet: bool) -> int:
    """Run the script in a Python of its own, so that it is `__main__` and may end as it likes."""
    environment = _environment(folder)
    try:
        done = subprocess.run(
            [sys.executable, str(script), *arguments],
            env=environment,
            stdout=sys.stderr if quiet else None,
            check=False,
        )
    except KeyboardInterrupt:
        return 130
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


def _environment(folder: Path) -> dict[str, str]:
    """Return an environment in which dumps are on and `dynamo_genie` is the one that runs here."""
    from dynamo_genie.child_process import child_environment

    safe_path = os.environ.get("PYTHONSAFEPATH")
    environment = {**child_environment(os.environ), "GENIE_DEBUG_DIR": str(folder)}
    environment.pop("PYTHONSAFEPATH")  # a script may import what lies beside it
    return environment if safe_path is None else {**environment, "PYTHONSAFEPATH": safe_path}


def _plans(folder: Path) -> list[Path]:
    """Return the plans in a folder, oldest graph first."""
    return sorted(folder.glob("*/plan.json"), key=lambda path: (path.parent.stat().st_ctime_ns, path.parent.name))


def _print(reports: list[GraphReport], as_json: bool) -> None:
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(reports), indent=2).decode())
    elif reports:
        from dynamo_genie.bench.report import make_console

        make_console().print(render(reports))
