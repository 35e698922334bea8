"""`make gpu-check` where there is no GPU: what it says, and its rehearsal, end to end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from dynamo_genie.bench.gpu_check.records import Visit
from dynamo_genie.bench.study.records import read_study
from tests.integration.real_daemon import environment

LIMIT_S = 570.0
MOST_FILES, MOST_NBYTES = 8, 16 << 20
"""What a machine that is lent may let out."""


def gpu_check(*arguments: str, limit_s: float = LIMIT_S) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dynamo_genie.bench.gpu_check", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=limit_s, env=environment(), check=False, cwd="/"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--stages", "a,z"), "STAGES=a,z: there is no stage 'z'; there are a (tokens), b (tests)"),
        (("--budget", "soon"), "BUDGET=soon: write the seconds"),
    ],
)
def test_what_it_cannot_make_sense_of_is_named(arguments: tuple[str, ...], message: str) -> None:
    done = gpu_check(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_rehearsal_runs_every_stage_and_leaves_what_a_visit_leaves(tmp_path: Path) -> None:
    done = gpu_check("--rehearse", "--results", str(tmp_path))
    log = (tmp_path / "gpu-check.log").read_text(encoding="utf-8")
    assert done.returncode == 0, done.stdout + log[-5000:]
    visit = msgspec.json.decode((tmp_path / "gpu-check.json").read_bytes(), type=Visit)
    assert visit.rehearsal
    assert [(stage.letter, stage.state, stage.reason) for stage in visit.stages] == [
        (letter, "passed", "") for letter in "abcde"
    ]
    reports = {stage.letter: stage.report for stage in visit.stages}
    assert all(report.figures for report in reports.values())
    assert any("CUDA graphs need a CUDA device" in note for note in reports["a"].notes)
    assert {state for state, _ in reports["b"].details["tests"].values()} == {"passed", "skipped"}
    for model in ("tiny-gptj", "tiny-llama"):
        assert set(reports["c"].details[model]["differences"].values()) == {None}
    assert read_study(tmp_path / "gpu-check-modes-tiny-gptj.json").complete
    assert done.stdout.endswith(f"{tmp_path}/gpu-check.json, .txt and .log have all of it\n")
    files = list(tmp_path.iterdir())
    assert len(files) <= MOST_FILES
    assert all(path.is_file() and path.stat().st_size <= MOST_NBYTES for path in files)
    assert not [name for name in os.listdir(tmp_path) if "so-far" in name]
