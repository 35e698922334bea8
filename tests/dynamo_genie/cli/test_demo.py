"""`genie demo` as a user runs it, on a tiny model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dynamo_genie.bench import generation
from dynamo_genie.child_process import child_environment
from dynamo_genie.errors import GenieError

LIMIT_S = 110.0
TINY = "--layers 2 --embd 32 --heads 4 --vocab 128 --prompt 8 --new-tokens 6".split()


def demo(arguments: Sequence[str], **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dynamo_genie.cli", "demo", *arguments]
    environment = child_environment({**os.environ, **environ})
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=environment, check=False)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("demo") / "demo.json"
    done = demo([*TINY, "--json", str(path)])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tokens equal" in done.stdout
    assert "step 5 of 5: loss" in done.stdout
    assert "losses equal" in done.stdout
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def test_the_tokens_are_those_of_local_eager_and_vary(record: dict[str, Any]) -> None:
    assert record["tokens_equal"] is True
    assert record["remote_tokens"] == record["local_tokens"]
    assert len(record["local_tokens"]) == 6
    assert len(set(record["local_tokens"])) > 2


def test_weights_are_uploaded_once(record: dict[str, Any]) -> None:
    assert (
        record["parameter_bytes"] / 2 < record["weight_bytes_sent"] <= record["parameter_bytes"]
    )  # equal contents once
    assert record["weight_bytes_sent_again"] == 0


def test_a_step_moves_a_token_and_no_cache(record: dict[str, Any]) -> None:
    sent, received = record["bytes_per_step"]["sent"], record["bytes_per_step"]["received"]
    assert sent["kv_cache"] == received["kv_cache"] == sent["weight"] == 0
    assert 0 < sum(sent.values()) + sum(received.values()) < 3000


def test_times_and_machine_are_reported(record: dict[str, Any]) -> None:
    assert record["local_step_ms"] > 0
    assert record["remote_step_ms"] > 0
    assert {"cpu", "cores", "kernel", "python", "torch"} <= set(record["machine"])


def test_training_on_the_device_gives_the_losses_of_the_cpu_and_moves_no_model(record: dict[str, Any]) -> None:
    training = record["training"]
    assert training["losses_equal"] is True
    assert training["remote_losses"] == training["local_losses"]
    assert len(set(training["local_losses"])) == 5
    assert training["local_losses"][-1] < training["local_losses"][0]
    sent, received = training["last_step_bytes"]["sent"], training["last_step_bytes"]["received"]
    assert 0 < sum(sent.values()) + sum(received.values()) < 20_000 < training["model_nbytes"]
    assert "weight" not in {name for way in (sent, received) for name, nbytes in way.items() if nbytes}


@pytest.mark.slow
def test_static_cache_and_a_daemon_on_a_named_device() -> None:
    done = demo([*TINY, "--cache", "static", "--device", "cpu", "--train-steps", "2"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tokens equal" in done.stdout
    assert "step 2 of 2: loss" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cache", "paged"], "--cache 'paged': write dynamic or static"),
        (["--device", "tpu"], "--device 'tpu': write auto, cpu or cuda:N, or several: cuda:0,cuda:1"),
        (["--embd", "30", "--heads", "4"], "--embd 30 must be a multiple of --heads 4"),
    ],
)
def test_bad_options_are_one_line(arguments: list[str], message: str) -> None:
    done = demo(arguments)
    assert done.returncode == 1
    assert done.stderr.strip() == f"genie: {message}"


def test_without_transformers_the_error_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "transformers.py").write_text("raise ImportError('not here')\n")
    done = demo(TINY, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "pip install 'dynamo_genie[demo]'" in done.stderr


def test_a_model_that_runs_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Linear(4, 4)
    none_sent = {"calls": 0, "local_reads": 0}
    monkeypatch.setattr(generation, "total", lambda: none_sent)
    with pytest.raises(GenieError, match="addmm"):
        generation._refuse_local_work(lambda: layer(torch.ones(1, 4)), 1)
