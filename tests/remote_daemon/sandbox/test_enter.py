"""Entering a sandbox in a process of its own: what is left to the module that runs there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dynamo_genie.remote_daemon.channel.pipe import make_pipe
from dynamo_genie.remote_daemon.sandbox.enter import command_into, environment_into
from dynamo_genie.remote_daemon.sandbox.plan import Restrictions, WorkerUser
from dynamo_genie.remote_daemon.sandbox.privileges import KEPT_CAPABILITIES
from dynamo_genie.remote_daemon.sandbox.surroundings import kernel
from dynamo_genie.runtime.wire import messages as m
from tests.remote_daemon.fixtures import eventually

REPOSITORY = Path(__file__).parents[3]
MODULE = "tests.remote_daemon.sandbox.shown_state"

pytestmark = pytest.mark.skipif(not kernel().landlock or not kernel().seccomp, reason="a kernel without a sandbox")


def state_in(restrictions: Restrictions, *arguments: str) -> dict[str, Any]:
    environment = environment_into(restrictions)
    environment["PYTHONPATH"] = f"{REPOSITORY}"
    command = [*command_into(restrictions, (sys.executable, "-m", MODULE)), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_confined_module_has_lost_what_it_does_not_need(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s")
    state = state_in(Restrictions(str(tmp_path / "scratch")), str(secret), "--pipe-fd", "3")
    assert state["capabilities"] & ~KEPT_CAPABILITIES == 0
    del state["capabilities"]
    assert state == {
        "new privileges": False,
        "filter": True,
        "dumpable": 1,
        "reads": False,
        "writes": False,
        "TMPDIR": str(tmp_path / "scratch"),
        "arguments": [str(secret), "--pipe-fd", "3"],
    }


def test_a_model_is_read_and_nothing_is_written_beside_it(tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"m")
    state = state_in(Restrictions(str(tmp_path / "scratch"), models=(str(tmp_path),)), str(model))
    assert (state["reads"], state["writes"]) == (True, False)


def test_without_a_sandbox_it_keeps_files_and_calls_and_hides_its_memory(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s")
    state = state_in(Restrictions(str(tmp_path), confined=False), str(secret))
    assert (state["reads"], state["filter"], state["dumpable"], state["new privileges"]) == (True, False, 0, False)


def test_what_stands_in_the_way_is_told_to_the_supervisor(tmp_path: Path) -> None:
    nobody = WorkerUser("nobody", 65_534, 65_534)  # whom root cannot give what is not there, and others not become
    restrictions = Restrictions(str(tmp_path / "missing"), user=nobody)
    pipe, theirs = make_pipe()
    command = [*command_into(restrictions, (sys.executable, "-m", MODULE)), "--pipe-fd", str(theirs.fileno())]
    with theirs:
        process = subprocess.Popen(
            command, env=environment_into(restrictions), pass_fds=[theirs.fileno()], stderr=subprocess.PIPE
        )
    heard: list[m.WorkerToSupervisor] = []
    assert eventually(lambda: heard.extend(pipe.receive_available()) or heard)
    (failed,) = heard
    assert isinstance(failed, m.WorkerFailed)
    assert "sandbox cannot be made" in failed.message
    _, log = process.communicate(timeout=30)
    assert process.returncode == 1
    assert b"sandbox cannot be made" in log
    pipe.close()
