"""`genie bench NAME` runs and reports; how fast they are is for people to read."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from dynamo_genie.bench.alternate import in_turns
from dynamo_genie.bench.report import Figure, at_least_times, at_most, at_most_above, at_most_times, summary, table_of
from dynamo_genie.child_process import child_environment
from dynamo_genie.cli import bench_runs
from dynamo_genie.cli.bench import EXPERIMENTS, Experiment, app

LIMIT_S = 110.0


def run(*arguments: str) -> str:
    command = [sys.executable, "-m", *arguments]
    environment = child_environment(os.environ)
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def figures_of(path: Path) -> dict[str, dict[str, Any]]:
    record = json.loads(path.read_text())
    assert {"cpu", "cores", "kernel", "torch"} <= set(record["machine"])
    return {figure["name"]: figure for figure in record["figures"]}


def test_the_list_has_every_experiment_and_each_says_its_options() -> None:
    runner = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"})
    listed = runner.invoke(app, ["--help"]).output
    assert [name for name in (e.name for e in EXPERIMENTS) if not re.search(rf"\b{name} ", listed)] == []
    for experiment in EXPERIMENTS:
        text = runner.invoke(app, [experiment.name, "--help"]).output
        assert experiment.about.split("\n")[0] in text
        assert [option.help for option in experiment.options if option.help not in text] == []


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda experiment: experiment.name)
def test_a_run_uses_each_option_of_its_row_and_no_other(experiment: Experiment) -> None:
    assert read_by(experiment.run) == {option.name for option in experiment.options}


def read_by(run: Any) -> set[str]:
    """Return the values that a function reads from `given`, or hands it on to be read."""
    source = inspect.getsource(run)
    found = set(re.findall(r"\bgiven\.(\w+)", source))
    helpers = re.findall(r"\b(_\w+)\([^()]*\bgiven\b[,)]", source)
    return found.union(*(read_by(getattr(bench_runs, name)) for name in helpers if name != run.__name__))


def test_the_list_of_experiments_imports_no_torch() -> None:
    command = "import sys; import dynamo_genie.cli.__main__, dynamo_genie.cli.bench; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True,
                          env=child_environment(os.environ))  # fmt: skip
    assert done.stdout == "False\n"


def test_bench_transport_reports_each_figure_beside_its_floor(tmp_path: Path) -> None:
    path = tmp_path / "transport.json"
    sizes = ["--round-trips", "40", "--upload-mib", "2", "--uploads", "2"]
    text = run("dynamo_genie.cli", "bench", "transport", *sizes, "--json", str(path))
    assert "empty call" in text
    figures = figures_of(path)
    for transport in ("tcp", "ipc"):
        trip = figures[f"empty call and answer, {transport}"]
        assert trip["value"] > 0 and trip["floor"] > 0
        upload = figures[f"upload of 2 MiB, {transport}, floor into fresh memory"]
        assert upload["value"] > 0 and upload["floor"] > 0
        for side in ("client", "worker"):
            memory = figures[f"extra memory in an upload of 2 MiB, {transport}, {side}"]
            assert 0 <= memory["value"] <= 128


@pytest.mark.slow
def test_bench_decode_reports_steps_generate_and_bytes(tmp_path: Path) -> None:
    path = tmp_path / "decode.json"
    size = "--layers 1 --embd 16 --heads 2 --vocab 64 --prompt 8".split()
    length = "--steps 4 --generates 1 --new-tokens 5 --cache-length 12".split()
    run("dynamo_genie.cli", "bench", "decode", *size, *length, "--json", str(path))
    figures = figures_of(path)
    assert figures["decode step ending in item(), floor aot_eager"]["floor"] > 0
    assert figures["token of generate(), floor aot_eager"]["floor"] > 0
    assert 0 < figures["bytes of a step at 12 tokens, both ways"]["value"] < 3000
    assert figures["of them KV cache, at 12 tokens"]["value"] == 0


def test_the_gpu_check_skips_where_there_is_no_gpu() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert run("dynamo_genie.bench.gpu_check") == "skipped: no NVIDIA GPU\n"


def test_targets() -> None:
    assert at_most("a", 3, "B", 3).passed and not at_most("a", 4, "B", 3).passed
    assert at_most_times("a", 3, 2, "us", 1.5).passed and not at_most_times("a", 4, 2, "us", 1.5).passed
    assert at_least_times("a", 7, 10, "MB/s", 0.7).passed and not at_least_times("a", 6, 10, "MB/s", 0.7).passed
    assert at_most_above("a", 5, 4, "ms", 1.5).passed and not at_most_above("a", 6, 4, "ms", 1.5).passed


def test_the_table_shows_figure_floor_and_verdict() -> None:
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(table_of("title", [at_most_times("trip", 3, 1, "us", 1.5), Figure("plain", 1234.5, "MB/s")]))
    text = console.export_text()
    for part in ("title", "trip", "3 us", "1 us", "<= 1.5 x floor", "FAIL", "1,234 MB/s"):
        assert part in text


def test_ways_are_measured_in_turns_and_each_goes_first() -> None:
    order: list[str] = []
    samples = in_turns({name: (lambda name=name: order.append(name)) for name in "ab"}, rounds=2, each=2)
    assert order == list("aabbbbaa")
    assert [len(taken) for taken in samples.values()] == [4, 4]


def test_a_summary_has_the_median_and_the_quartiles() -> None:
    found = summary([1.0, 2.0, 3.0, 4.0, 100.0], scale=10)
    assert (found["median"], found["minimum"], found["samples"]) == (30.0, 10.0, 5)
    assert found["low_quartile"] < found["median"] < found["high_quartile"]


def test_bench_weights_times_each_kind_of_memory(tmp_path: Path) -> None:
    path = tmp_path / "weights.json"
    run("dynamo_genie.cli", "bench", "weights", "--mib", "4", "--looks", "2", "--json", str(path))
    assert list(figures_of(path)) == [
        "a look, private memory",
        "a look, shared memory, hashed",
        "a look, shared memory, sampled",
        "bytes hashed",
    ]


def test_bench_arenas_times_and_counts_each_length(tmp_path: Path) -> None:
    path = tmp_path / "arenas.json"
    run(
        "dynamo_genie.cli",
        "bench",
        "arenas",
        "--layers",
        "1",
        "--length",
        "16",
        "--length",
        "64",
        "--steps",
        "3",
        "--json",
        str(path),
    )
    assert len(figures_of(path)) == 2
    record = json.loads(path.read_text())
    assert record["bytes_a_step_16"] == record["bytes_a_step_64"] == {"appended": 2 * 12 * 64 * 4, "moved": 0.0}


@pytest.mark.slow
def test_bench_passes_reports_capture_passes_and_growth(tmp_path: Path) -> None:
    path = tmp_path / "passes.json"
    run(
        "dynamo_genie.cli",
        "bench",
        "passes",
        *"--layers 1 --layers 2 --embd 16 --heads 2 --vocab 64 --json".split(),
        str(path),
    )
    names = [name for name in figures_of(path) if name.startswith("all passes")]
    assert len(names) == 4
    captures = json.loads(path.read_text())["captures"]
    assert all(capture["capture_s"] > 0 and capture["passes_s"] > 0 for capture in captures)
    assert {name for name, _ in captures[0]["by_pass"]} >= {"portable", "attention", "kv_cache", "roles", "phase"}
