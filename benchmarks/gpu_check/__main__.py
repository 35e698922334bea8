"""`python -m dynamo_genie.bench.gpu_check`, which `make gpu-check` runs."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from dynamo_genie.bench.gpu_check.check import Check, VisitFiles
from dynamo_genie.bench.gpu_check.one_stage import REHEARSE, command_of
from dynamo_genie.bench.gpu_check.stages import STAGES, chosen_stages, rehearsed, seconds_in
from dynamo_genie.errors import OptionError

RESULTS = Path(__file__).parents[1] / "results"
NVIDIA_SMI_LIMIT_S = 30

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def gpu_check(
    stages: Annotated[str, typer.Option(help="Letters of stages, such as a,c; all when not given")] = "",
    budget: Annotated[str, typer.Option(help="Seconds for all of them; the sum of their limits when not given")] = "",
    results: Annotated[
        Path | None, typer.Option(help="Folder for the results; benchmarks/results, for a rehearsal a new one in /tmp")
    ] = None,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", envvar=REHEARSE, help="The same on the CPU with tiny models")
    ] = False,
) -> None:
    """Check this machine's GPU, most valuable first; exit code 1 when a stage that ran did not pass, or none did."""
    known = rehearsed(STAGES) if rehearse else STAGES
    try:
        chosen = chosen_stages(stages, known)
        budget_s = seconds_in(budget, chosen)
    except OptionError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None
    if not rehearse and not _there_is_a_gpu():
        print("skipped: no NVIDIA GPU")
        return
    if results is None:
        results = Path(tempfile.mkdtemp(prefix="gpu-check-")) if rehearse else RESULTS
    files = VisitFiles(results.resolve())
    for number in (signal.SIGTERM, signal.SIGHUP):  # the latter where a connection breaks
        signal.signal(number, _end)
    check = Check(
        known, chosen, budget_s, files, partial(command_of, rehearsal=rehearse), _say, rehearsal=rehearse
    )  # fmt: skip
    try:
        visit = check.run()
    except KeyboardInterrupt:
        print(f"interrupted; what ended before is in {files.table}", file=sys.stderr)
        raise typer.Exit(130) from None
    except OSError as error:
        print(f"cannot write the results to {files.folder}: {error.strerror}; RESULTS names another folder",
              file=sys.stderr)  # fmt: skip
        raise typer.Exit(1) from None
    print(files.table.read_text(encoding="utf-8"), end="")
    print(f"{files.document}, .txt and .log have all of it")
    raise typer.Exit(1 if visit.failed else 0)


def _there_is_a_gpu() -> bool:
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=NVIDIA_SMI_LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        import torch  # slower to ask, and it knows of GPUs where nvidia-smi is not installed

        return torch.cuda.is_available()
    return listed.stdout.startswith("GPU")


def _say(text: str) -> None:
    print(text, flush=True)


def _end(number: int, frame: Any) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    app()
