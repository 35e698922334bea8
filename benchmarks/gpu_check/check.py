"""Runs stages one after the other, each in a process of its own, and writes down after each what is known by then."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from dynamo_genie.bench.gpu_check.budget import Allowance, allowance
from dynamo_genie.bench.gpu_check.limited import Ended, run_limited
from dynamo_genie.bench.gpu_check.records import (
    StageReport,
    StageResult,
    State,
    Visit,
    read_report,
    replace_file,
    write_record,
)
from dynamo_genie.bench.gpu_check.stages import Stage
from dynamo_genie.bench.gpu_check.table import line_of, text_of
from dynamo_genie.bench.machine import describe_machine
from dynamo_genie.bench.report import Say
from dynamo_genie.child_process import child_environment
from dynamo_genie.remote_daemon.supervisor.worker_process import describe_exit

LOG_NBYTES = 1 << 20
"""Of each stage's log the beginning and the end are kept, so much of each."""

CommandOf = Callable[[Stage, Path, float], Sequence[str]]
"""Returns what runs a stage, given the file for its report and the seconds that it has."""


@dataclass(frozen=True)
class VisitFiles:
    """Where a visit is written down: a document, a table, the logs of all stages."""

    folder: Path

    @property
    def document(self) -> Path:
        """All that is known, as JSON."""
        return self.folder / "gpu-check.json"

    @property
    def table(self) -> Path:
        """The same for people."""
        return self.folder / "gpu-check.txt"

    @property
    def log(self) -> Path:
        """What the stages printed."""
        return self.folder / "gpu-check.log"

    def so_far(self, letter: str) -> Path:
        """What a stage that runs has found so far; gone when it has ended."""
        return self.folder / f"gpu-check-{letter}-so-far.json"


class Check:
    """One run of some stages."""

    def __init__(
        self,
        stages: Sequence[Stage],
        chosen: Sequence[Stage],
        budget_s: float,
        files: VisitFiles,
        command_of: CommandOf,
        say: Say,
        *,
        rehearsal: bool,
    ) -> None:
        self._chosen = chosen
        self._files = files
        self._command_of = command_of
        self._say = say
        letters = {stage.letter for stage in chosen}
        self.visit = Visit(
            datetime.now(timezone.utc).isoformat(timespec="seconds"),
            rehearsal,
            budget_s,
            describe_machine(),
            tuple(_not_run(stage, "not reached" if stage.letter in letters else "not chosen") for stage in stages),
        )

    def run(self) -> Visit:
        """Run the stages; whatever ends this, what is known by then is on disk."""
        self._files.folder.mkdir(parents=True, exist_ok=True)
        self._files.log.write_bytes(b"")
        self._write()
        began = time.monotonic()
        for i, stage in enumerate(self._chosen):
            later_s = sum(later.limit_s for later in self._chosen[i + 1 :])
            allowed = allowance(stage.limit_s, self.visit.budget_s, time.monotonic() - began, later_s)
            if allowed is None:
                self._note(_not_run(stage, f"too little is left of the budget of {self.visit.budget_s:g} s"))
            else:
                self._say(f"{stage.letter} {stage.name}: {stage.what} (at most {allowed.seconds:.0f} s)")
                self._note(self._run_stage(stage, allowed))
        return self.visit

    def _run_stage(self, stage: Stage, allowed: Allowance) -> StageResult:
        so_far = self._files.so_far(stage.letter)
        so_far.unlink(missing_ok=True)
        command = self._command_of(stage, so_far, allowed.seconds)
        began = time.monotonic()
        with self._files.log.open("ab") as log:
            log.write(f"\n=== {stage.letter} {stage.name} ===\n".encode())
            log.flush()
            start = log.tell()
            try:
                ended = run_limited(command, allowed.seconds, log, child_environment(os.environ))
            except BaseException:  # Ctrl-C, SIGTERM
                seconds = time.monotonic() - began
                self._note(_result(stage, "failed", "interrupted", seconds, read_report(so_far)))
                raise
        shorten(self._files.log, start, LOG_NBYTES)
        report = read_report(so_far)
        so_far.unlink(missing_ok=True)
        state, reason = verdict(ended, report, allowed)
        return _result(stage, state, reason, ended.seconds, report)

    def _note(self, result: StageResult) -> None:
        self.visit = self.visit.with_result(result)
        self._write()
        self._say(line_of(result))

    def _write(self) -> None:
        write_record(self._files.document, self.visit)
        replace_file(self._files.table, text_of(self.visit).encode())


def verdict(ended: Ended, report: StageReport, allowed: Allowance) -> tuple[State, str]:
    """Say how a stage went, and why it did not pass."""
    left = f"; still there: {', '.join(map(str, ended.left_behind))}" if ended.left_behind else ""
    if ended.code is None:
        return "timed out", f"{allowed.used_up} was used up{left}"
    if ended.code or not report.complete:
        return "failed", (report.error or describe_exit(ended.code)) + left
    if missed := [figure.name for figure in report.figures if figure.passed is False]:
        return "failed", f"not reached: {'; '.join(missed)}{left}"
    return ("failed", left.removeprefix("; ")) if left else ("passed", "")


def shorten(path: Path, start: int, most: int) -> None:
    """Of what a log has from `start` on, keep the first and the last `most` bytes."""
    content = path.read_bytes()
    section = content[start:]
    if len(section) > 2 * most:
        cut = f"\n... {len(section) - 2 * most:,} bytes left out ...\n".encode()
        replace_file(path, content[:start] + section[:most] + cut + section[-most:])


def _not_run(stage: Stage, reason: str) -> StageResult:
    return _result(stage, "skipped", reason, 0.0, StageReport())


def _result(stage: Stage, state: State, reason: str, seconds: float, report: StageReport) -> StageResult:
    return StageResult(
        stage.letter, stage.name, stage.what, stage.limit_s, state, reason, round(seconds, 2), report
    )  # fmt: skip
