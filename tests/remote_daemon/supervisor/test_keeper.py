"""The supervisor is started again when it dies, at its endpoint, and everything ends in good order when asked to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from dynamo_genie.child_process import child_environment
from dynamo_genie.remote_daemon.supervisor.keeper import MAX_DEATHS
from dynamo_genie.runtime.connect.admission import Admission, request_status
from tests.remote_daemon.fixtures import LIMIT_S, DaemonProcess, children_of, eventually, is_running

Start = Callable[..., DaemonProcess]

DIES = """
import os, signal, sys
from dynamo_genie.remote_daemon.supervisor import keeper
keeper.FIRST_PAUSE_S = 0.001
def serve(listen, announce):
    print("started at", listen, file=sys.stderr, flush=True)
    if sys.argv[1] == "before it is ready":
        return 7
    announce("tcp://127.0.0.1:5555")
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(keeper.Keeper(serve, "tcp://127.0.0.1:*").run())
"""


def run(when: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", DIES, when]
    environment = child_environment(os.environ)
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=environment, check=False)


def test_a_killed_supervisor_is_replaced_at_its_endpoint_and_ready_is_said_once(start_daemon: Start) -> None:
    daemon = start_daemon(kept="1")
    endpoint = daemon.wait_ready()
    for _ in range(2):
        before = request_status(endpoint, None, LIMIT_S).pid
        assert [before] == daemon.workers() != [daemon.pid]  # the keeper's only child
        workers = children_of(before)
        os.kill(before, signal.SIGKILL)
        assert eventually(lambda: daemon.workers() not in ([before], []))  # noqa: B023
        assert request_status(endpoint, None, LIMIT_S).pid not in (before, daemon.pid)
        Admission.open(endpoint, keys=None, connect_timeout_s=LIMIT_S, on_lost=lambda _: None).close()
        assert eventually(lambda: not any(is_running(pid) for pid in workers))  # noqa: B023
    daemon.process.terminate()
    code, out, log = daemon.wait_exit()
    assert (code, out) == (0, "")
    assert log.count("the supervisor died (killed by SIGKILL); another one starts at " + endpoint) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_leaves_nothing(start_daemon: Start, number: signal.Signals) -> None:
    daemon = start_daemon(kept="1")
    daemon.wait_ready()
    [supervisor] = daemon.workers()
    left = [supervisor, *children_of(supervisor)]
    daemon.process.send_signal(number)
    assert daemon.wait_exit()[:2] == (0, "")
    assert eventually(lambda: not any(is_running(pid) for pid in left))


def test_who_ends_the_supervisor_in_good_order_ends_the_daemon(start_daemon: Start) -> None:
    daemon = start_daemon(kept="1")
    daemon.wait_ready()
    [supervisor] = daemon.workers()
    os.kill(supervisor, signal.SIGTERM)
    assert daemon.wait_exit()[0] == 0


def test_nothing_outlives_a_killed_keeper(start_daemon: Start) -> None:
    daemon = start_daemon(kept="1")
    daemon.wait_ready()
    [supervisor] = daemon.workers()
    left = [supervisor, *children_of(supervisor)]
    assert len(left) == 2
    daemon.process.kill()
    assert eventually(lambda: not any(is_running(pid) for pid in left))


def test_what_never_was_ready_is_not_started_again() -> None:
    done = run("before it is ready")
    assert (done.returncode, done.stdout) == (7, "")
    assert done.stderr == "started at tcp://127.0.0.1:*\n"


def test_a_supervisor_that_dies_again_and_again_is_given_up() -> None:
    done = run("when it is ready")
    assert (done.returncode, done.stdout) == (1, "ready tcp://127.0.0.1:5555\n")
    starts = [line for line in done.stderr.splitlines() if line.startswith("started at ")]
    assert starts == ["started at tcp://127.0.0.1:*", *["started at tcp://127.0.0.1:5555"] * MAX_DEATHS]
    assert "giving up" in done.stderr
