"""`genie explain` around scripts that end in different ways."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dynamo_genie.child_process import child_environment

LIMIT_S = 110.0

SCRIPT = """
import sys, torch
from neighbour import WIDTH
assert __name__ == "__main__"
model = torch.nn.Linear(WIDTH, 2)
run = torch.compile(model, backend="genie")
with torch.no_grad():
    print("sum", float(run(torch.ones(3, WIDTH)).sum()), sys.argv[1:])
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("WIDTH = 4\n")
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def explain(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dynamo_genie.cli", "explain", *map(str, arguments)]
    environment = child_environment(os.environ)
    environment.pop("PYTHONSAFEPATH")  # as a user has it
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=environment, check=False)


def test_arguments_go_to_the_script_and_its_exit_code_comes_back(script: Path) -> None:
    done = explain(script, "--", 7, "--json", "--out")
    assert done.returncode == 7, done.stderr
    assert "['7', '--json', '--out']" in done.stdout
    assert "0_0_inference" in done.stdout


def test_options_may_stand_behind_the_script_and_unknown_ones_are_the_scripts(script: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    done = explain(script, 0, "--width", "8", "-x", "--out", kept, "--name=a")
    assert done.returncode == 0, done.stderr
    assert "['0', '--width', '8', '-x', '--name=a']" in done.stdout
    assert (kept / "0_0_inference" / "report.html").is_file()


def test_json_is_all_that_stdout_holds_and_the_reports_are_kept(script: Path, tmp_path: Path) -> None:
    done = explain("--json", "--out", tmp_path / "kept", script, 0)
    assert done.returncode == 0, done.stderr
    [report] = json.loads(done.stdout)
    assert report["name"] == "0_0_inference"
    assert report["placements"][0]["measured"]["calls"] == 1
    assert "sum" in done.stderr
    assert (tmp_path / "kept" / "0_0_inference" / "report.html").is_file()


def test_the_trace_holds_the_last_call_predicted_and_measured(script: Path, tmp_path: Path) -> None:
    done = explain("--trace", tmp_path / "call.json", script, 0)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "call.json") in done.stderr
    events = json.loads((tmp_path / "call.json").read_bytes())["traceEvents"]
    ran = [(event["cat"], event["name"]) for event in events if event["ph"] == "X"]
    assert sorted(each for each in ran if each[1].startswith("partition")) == [
        ("measured", "partition 0"),
        ("predicted", "partition 0"),
    ]


def test_a_trace_that_has_nowhere_to_go_is_refused_before_the_script_runs(script: Path, tmp_path: Path) -> None:
    done = explain("--trace", tmp_path / "missing" / "call.json", script, 0)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.strip() == f"genie: there is no folder '{tmp_path}/missing' for the trace"


def test_a_script_that_fails_keeps_its_traceback_and_code(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("raise RuntimeError('on purpose')\n")
    done = explain(tmp_path / "bad.py")
    assert done.returncode == 1
    assert "on purpose" in done.stderr


def test_a_script_without_the_backend_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text("print('hello')\n")
    done = explain(tmp_path / "plain.py")
    assert done.returncode == 1
    assert done.stderr.strip().endswith("plain.py compiled nothing with backend='genie', or sets debug_dir itself")


def test_a_missing_script_is_one_line() -> None:
    done = explain("/no/such/script.py")
    assert done.returncode == 1
    assert done.stderr.strip() == "genie: there is no script '/no/such/script.py'"


TRAINING = """
import sys, torch
place, trained = sys.argv[1], sys.argv[2] == "trained"
if place != "cpu":
    import dynamo_genie
    dynamo_genie.register_device()
model = torch.nn.Linear(30, 20).to(place).requires_grad_(trained)
run = torch.compile(model, backend="genie")
for _ in range(2):
    loss = run(torch.ones(3, 30, device=place)).sum()
    if trained:
        loss.backward()
print("loss", float(loss))
"""


@pytest.mark.parametrize(
    ("place", "trained", "advised"),
    [
        ("cpu", "trained", True),
        pytest.param("cpu", "frozen", False, marks=pytest.mark.slow),
        pytest.param("remote_accelerator:0", "trained", False, marks=pytest.mark.slow),
    ],
)
def test_training_a_model_on_the_cpu_is_said_once_to_move_it_twice(
    tmp_path: Path, place: str, trained: str, advised: bool
) -> None:
    script = tmp_path / "training.py"
    script.write_text(TRAINING)
    done = explain(script, place, trained)
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert "0_0_" in text
    assert text.count('With model.to("remote_accelerator:0")') == advised
    nbytes = 4 * (30 * 20 + 20)
    assert (f"({2 * nbytes:,} B together)" in text) == advised
