"""One stage, in the process that the check starts for it: `python -m dynamo_genie.bench.gpu_check.one_stage`.

Standard input is a pipe that the check holds: when that is killed the pipe ends, and so does the stage. A stage that
is about to be killed at its limit prints first where all its threads are.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from dynamo_genie.bench.gpu_check.outcome import Outcome
from dynamo_genie.bench.gpu_check.scale import REAL, REHEARSAL
from dynamo_genie.bench.gpu_check.stages import STAGES, Stage
from dynamo_genie.bench.machine import use_one_thread

REHEARSE = "GPU_CHECK_REHEARSE"
"""Tells the tests of stage b, too, that the CPU stands in for the GPU."""

TRACE_BEFORE_LIMIT_S = 1.5


def command_of(stage: Stage, so_far: Path, seconds: float, *, rehearsal: bool) -> list[str]:
    """Return the command that runs a stage."""
    command = [sys.executable, "-u", "-m", "dynamo_genie.bench.gpu_check.one_stage"]
    return [*command, stage.letter, str(so_far), f"{seconds:.1f}", *(["--rehearse"] if rehearsal else [])]


def main(arguments: Sequence[str]) -> None:
    """Run a stage and leave its report, whatever becomes of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("letter", choices=[stage.letter for stage in STAGES])
    parser.add_argument("report", type=Path)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--rehearse", action="store_true")
    given = parser.parse_args(arguments)
    faulthandler.dump_traceback_later(max(1.0, given.seconds - TRACE_BEFORE_LIMIT_S))
    threading.Thread(target=_end_with_input, daemon=True).start()
    if given.rehearse:
        use_one_thread()
        os.environ[REHEARSE] = "1"
    [stage] = [stage for stage in STAGES if stage.letter == given.letter]
    outcome = Outcome(given.report)
    try:
        stage.run(REHEARSAL if given.rehearse else REAL, outcome)
    except BaseException as error:
        outcome.fail(error)
        raise
    outcome.complete()


def _end_with_input() -> None:
    os.read(sys.stdin.fileno(), 1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
