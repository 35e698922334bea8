"""What a visit to a GPU leaves behind: one record a stage, in one document, replaced whole after each stage."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import msgspec

from dynamo_genie.bench.report import Figure

State = Literal["passed", "failed", "timed out", "skipped"]


class StageReport(msgspec.Struct, frozen=True):
    """What a stage has found so far, as it leaves it for whoever watches.

    Attributes:
        figures: With their targets, where they have one.
        notes: Sentences for people: what fell back, what could not be measured.
        details: Everything else, for programs.
        complete: Whether the stage came to its end.
        error: What ended it before, in a line.
    """

    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()
    details: dict[str, Any] = {}
    complete: bool = False
    error: str = ""


class StageResult(msgspec.Struct, frozen=True):
    """How one stage went.

    Attributes:
        letter: As `STAGES` names it.
        name: Its name.
        what: What it checks.
        limit_s: The seconds that it may take.
        state: How it ended.
        reason: Why, unless it passed.
        seconds: How long it ran.
        report: What it found, as far as it came.
    """

    letter: str
    name: str
    what: str
    limit_s: float
    state: State
    reason: str = ""
    seconds: float = 0.0
    report: StageReport = StageReport()


class Visit(msgspec.Struct, frozen=True):
    """All stages of one run.

    Attributes:
        started: When, in UTC, as ISO 8601.
        rehearsal: Whether tiny models on the CPU stood in for the GPU.
        budget_s: For all stages together.
        machine: Its processor, GPU, and the versions of packages.
        stages: In order, those that were not run included.
    """

    started: str
    rehearsal: bool
    budget_s: float
    machine: dict[str, str | int | float]
    stages: tuple[StageResult, ...]

    def with_result(self, result: StageResult) -> Visit:
        """Return this visit with another result for one stage."""
        stages = tuple(result if stage.letter == result.letter else stage for stage in self.stages)
        return msgspec.structs.replace(self, stages=stages)

    @property
    def failed(self) -> bool:
        """Whether a stage that ran did not pass, or none passed: then nothing was shown."""
        states = {stage.state for stage in self.stages}
        return "passed" not in states or bool(states & {"failed", "timed out"})


def read_report(path: Path) -> StageReport:
    """Return what a stage left; nothing where it left nothing."""
    return msgspec.json.decode(path.read_bytes(), type=StageReport) if path.exists() else StageReport()


def write_record(path: Path, record: StageReport | Visit) -> None:
    """Replace a document in one go."""
    replace_file(path, msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file in one go: whoever reads it, or kills us, finds the old one or the new one, both whole."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_bytes(content)
    new.replace(path)
