"""The check with stages of a few lines: whatever becomes of one, the next one runs, and what is known is on disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import pytest

from dynamo_genie.bench.gpu_check.budget import WORTH_STARTING_S, Allowance, allowance
from dynamo_genie.bench.gpu_check.check import Check, VisitFiles, shorten, verdict
from dynamo_genie.bench.gpu_check.limited import Ended
from dynamo_genie.bench.gpu_check.outcome import Outcome
from dynamo_genie.bench.gpu_check.records import StageReport, StageResult, Visit
from dynamo_genie.bench.gpu_check.scale import Scale
from dynamo_genie.bench.gpu_check.stages import STAGES, Stage, chosen_stages, seconds_in
from dynamo_genie.bench.report import Figure, at_most
from dynamo_genie.errors import EngineWarning, OptionError
from tests.integration.real_daemon import environment
from tests.remote_daemon.fixtures import eventually

FINDS = """
import sys
from pathlib import Path
from dynamo_genie.bench.gpu_check.outcome import Outcome
from dynamo_genie.bench.report import at_most
outcome = Outcome(Path(sys.argv[1]))
outcome.add([at_most("bytes", {value}, "B", 3)], note="a note", details={{"tokens": [1, 2]}})
"""
PASSES = FINDS.format(value=3) + "outcome.complete()"
MISSES = FINDS.format(value=4) + "outcome.complete()"
FAILS = FINDS.format(value=3) + "raise SystemExit(3)"
SAYS_WHY = FINDS.format(value=3) + "outcome.fail(ValueError('no such card'))\nraise SystemExit(1)"
HANGS = (
    FINDS.format(value=3)
    + """
import os, subprocess, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
outcome.add(details={"child": child.pid})
time.sleep(600)
"""
)
LEAVES_A_CHILD = HANGS.replace("time.sleep(600)\n", "outcome.complete()\n")


def nothing(scale: Scale, outcome: Outcome) -> None:
    raise AssertionError("the code of a stage runs in its own process")


def stage(letter: str, limit_s: float = 60.0) -> Stage:
    return Stage(letter, f"stage-{letter}", "a test", limit_s, nothing)


def check_of(
    codes: Mapping[str, str],
    folder: Path,
    *,
    limit_s: float = 60.0,
    budget_s: float = 600.0,
    said: list[str] | None = None,
) -> Check:
    stages = [stage(letter, limit_s) for letter in codes]

    def command_of(one: Stage, so_far: Path, seconds: float) -> Sequence[str]:
        return [sys.executable, "-c", codes[one.letter], str(so_far)]

    say = (said if said is not None else []).append
    return Check(stages, stages, budget_s, VisitFiles(folder), command_of, say, rehearsal=True)


def read(folder: Path) -> Visit:
    return msgspec.json.decode((folder / "gpu-check.json").read_bytes(), type=Visit)


def result(visit: Visit, letter: str) -> StageResult:
    [found] = [stage for stage in visit.stages if stage.letter == letter]
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_failed_stage_spoils_neither_what_came_before_nor_what_comes_after(tmp_path: Path) -> None:
    visit = check_of({"a": PASSES, "b": FAILS, "c": MISSES, "d": SAYS_WHY, "e": PASSES}, tmp_path).run()
    assert [(one.state, one.reason) for one in visit.stages] == [
        ("passed", ""),
        ("failed", "exit code 3"),
        ("failed", "not reached: bytes"),
        ("failed", "ValueError: no such card"),
        ("passed", ""),
    ]
    assert visit.failed
    assert read(tmp_path) == visit
    for one in visit.stages:
        assert [figure.name for figure in one.report.figures] == ["bytes"]
        assert one.report.details == {"tokens": [1, 2]}
    table = (tmp_path / "gpu-check.txt").read_text()
    assert "b stage-b" in table and "exit code 3" in table and "a: a note" in table
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu-check.json", "gpu-check.log", "gpu-check.txt"]


def test_a_stage_that_hangs_is_ended_with_all_that_it_started_and_keeps_what_it_found(tmp_path: Path) -> None:
    check = check_of({"a": HANGS, "b": PASSES}, tmp_path, limit_s=4.0)
    visit = check.run()
    hung = result(visit, "a")
    assert (hung.state, hung.reason) == ("timed out", "its time of 8 s was used up")
    assert [figure.name for figure in hung.report.figures] == ["bytes"]
    assert not is_alive(hung.report.details["child"])
    assert result(visit, "b").state == "passed"


def test_what_a_stage_leaves_running_is_ended_before_the_next_one_starts(tmp_path: Path) -> None:
    visit = check_of({"a": LEAVES_A_CHILD}, tmp_path).run()
    assert result(visit, "a").state == "passed"
    assert not is_alive(result(visit, "a").report.details["child"])


def test_results_are_on_disk_after_each_stage(tmp_path: Path) -> None:
    looks = (
        PASSES
        + """
import json
document = json.loads((Path(sys.argv[1]).parent / "gpu-check.json").read_text())
outcome.add(details={"states": {stage["letter"]: stage["state"] for stage in document["stages"]}})
"""
    )
    visit = check_of({"a": PASSES, "b": FAILS, "c": looks}, tmp_path).run()
    seen = result(visit, "c").report.details["states"]
    assert seen == {"a": "passed", "b": "failed", "c": "skipped"}


def test_a_budget_that_is_used_up_ends_the_stage_that_runs_and_names_those_that_do_not(tmp_path: Path) -> None:
    said: list[str] = []
    check = check_of({"a": HANGS, "b": PASSES}, tmp_path, budget_s=WORTH_STARTING_S + 1, said=said)
    visit = check.run()
    assert (result(visit, "a").state, result(visit, "a").reason) == ("timed out", "the budget of 6 s was used up")
    assert (result(visit, "b").state, result(visit, "b").reason) == (
        "skipped",
        "too little is left of the budget of 6 s",
    )
    assert "b stage-b: skipped in 0 s: too little is left of the budget of 6 s" in said


SERVES = """
import signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.benchmarks.gpu_check.test_check import HANGS, PASSES, check_of
from dynamo_genie.bench.gpu_check.__main__ import _end
signal.signal(signal.SIGTERM, _end)
check_of({{"a": PASSES, "b": HANGS, "c": PASSES}}, Path(sys.argv[1])).run()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_check_leaves_the_summary_of_what_ended(tmp_path: Path, number: signal.Signals) -> None:
    code = SERVES.format(root=str(Path(__file__).parents[3]))
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment(), stderr=subprocess.PIPE)
    so_far = tmp_path / "gpu-check-b-so-far.json"
    assert eventually(lambda: so_far.exists() and b"child" in so_far.read_bytes(), 60.0)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode != 0
    visit = read(tmp_path)
    assert [(one.state, one.reason) for one in visit.stages] == [
        ("passed", ""),
        ("failed", "interrupted"),
        ("skipped", "not reached"),
    ]
    assert not is_alive(result(visit, "b").report.details["child"])


def test_a_stage_ends_with_the_check_that_started_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dynamo_genie.bench.gpu_check.one_stage", "b", str(tmp_path / "found"), "60"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment(), start_new_session=True)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(60) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("limit_s", "budget_s", "spent_s", "later_s", "expected"),
    [
        (60, 360, 0, 300, Allowance(60, "its limit of 60 s")),
        (60, 360, 300, 0, Allowance(60, "its limit of 60 s")),
        (60, 360, 200, 90, Allowance(70, "its time of 70 s")),
        (60, 900, 0, 300, Allowance(120, "its time of 120 s")),  # twice its limit at most
        (60, 360, 290, 90, Allowance(60, "its limit of 60 s")),  # later ones keep no more than what is left
        (60, 360, 320, 90, Allowance(40, "the budget of 360 s")),
        (60, 360, 356, 0, None),
        (60, 360, 400, 0, None),
        (2, 360, 0, 358, Allowance(2, "its limit of 2 s")),
    ],
)
def test_a_stage_may_take_its_limit_what_others_left_or_what_the_budget_leaves(
    limit_s: float, budget_s: float, spent_s: float, later_s: float, expected: Allowance | None
) -> None:
    assert allowance(limit_s, budget_s, spent_s, later_s) == expected


def test_the_verdict_names_what_a_kill_did_not_end() -> None:
    allowed = Allowance(60, "its limit of 60 s")
    done = StageReport(complete=True)
    assert verdict(Ended(1.0, 0), done, allowed) == ("passed", "")
    assert verdict(Ended(1.0, 0, (7,)), done, allowed) == ("failed", "still there: 7")
    assert verdict(Ended(60.0, None, (7, 8)), done, allowed) == (
        "timed out",
        "its limit of 60 s was used up; still there: 7, 8",
    )
    assert verdict(Ended(1.0, 0), StageReport(), allowed)[0] == "failed"
    assert verdict(Ended(1.0, -11), StageReport(), allowed) == ("failed", "killed by SIGSEGV")


def test_stages_are_chosen_by_letter_in_the_order_of_the_table() -> None:
    assert chosen_stages("") == STAGES
    for text in ("d,a", "DA", " a d "):
        assert [one.letter for one in chosen_stages(text)] == ["a", "d"]


@pytest.mark.parametrize("text", ["x", "a,x", "a-c"])
def test_an_unknown_stage_is_named_with_those_that_there_are(text: str) -> None:
    with pytest.raises(OptionError, match=r"STAGES=.*there is no stage .*; there are a \(tokens\), b \(tests\)"):
        chosen_stages(text)


def test_the_budget_is_the_sum_of_the_limits_unless_it_is_given() -> None:
    assert seconds_in("", STAGES) == sum(one.limit_s for one in STAGES) <= 360
    assert seconds_in("90.5", STAGES) == 90.5


@pytest.mark.parametrize("text", ["0", "-1", "ten", "inf", "nan"])
def test_a_budget_that_is_no_number_of_seconds_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match=f"BUDGET={text}: write the seconds"):
        seconds_in(text, STAGES)


def test_a_long_log_keeps_its_beginning_and_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"before" + b"A" * 10 + b"x" * 100 + b"Z" * 10)
    shorten(path, 6, 10)
    assert path.read_bytes() == b"before" + b"A" * 10 + b"\n... 100 bytes left out ...\n" + b"Z" * 10
    shorten(path, 0, 100)
    assert path.read_bytes().startswith(b"beforeAAAAAAAAAA\n...")


def test_an_outcome_notes_each_reason_of_a_fallback_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import warnings

    outcome = Outcome(tmp_path / "found")
    with outcome.noting_fallbacks():
        for line in (1, 2):
            warnings.warn(f"the graph at {line} runs eager in the daemon: no CUDA", EngineWarning, stacklevel=1)
        warnings.warn("something else", UserWarning, stacklevel=1)
    assert outcome.report.notes == ("a program runs eager: no CUDA",)
    assert "warning: something else" in capsys.readouterr().out


def test_what_an_outcome_holds_is_read_back_whole(tmp_path: Path) -> None:
    outcome = Outcome(tmp_path / "found")
    outcome.add([Figure("a", 1.5, "ms"), at_most("b", 1, "B", 2)], details={"seconds": {"local": [0.1]}})
    outcome.add(note="twice")
    outcome.add(note="twice")
    found = msgspec.json.decode((tmp_path / "found").read_bytes(), type=StageReport)
    assert found == outcome.report
    assert found.notes == ("twice",)
    assert os.listdir(tmp_path) == ["found"]
