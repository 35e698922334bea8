"""A daemon that belongs to one process: there when it is needed, gone with that process, whoever dies first."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynamo_genie.errors import DaemonUnavailable
from dynamo_genie.runtime.connect.admission import Admission
from dynamo_genie.runtime.connect.embedded import EmbeddedDaemon
from tests.remote_daemon.fixtures import children_of, eventually, is_running

LIMIT_S = 110.0


@pytest.fixture(scope="module")
def daemon() -> Iterator[EmbeddedDaemon]:
    """One for all tests that do not end it: importing torch takes seconds."""
    daemon = EmbeddedDaemon.start(device="cpu", timeout_s=LIMIT_S)
    yield daemon
    daemon.stop()


def directory_of(daemon: EmbeddedDaemon) -> Path:
    return Path(daemon.endpoint.removeprefix("ipc://")).parent


def test_it_serves_over_a_socket_that_only_this_user_can_reach(daemon: EmbeddedDaemon) -> None:
    assert daemon.alive
    assert stat.S_IMODE(directory_of(daemon).stat().st_mode) == 0o700
    with Admission.open(daemon.endpoint, keys=None, connect_timeout_s=LIMIT_S, on_lost=print) as admission:
        assert admission.welcome.device.kind == "cpu"


def test_the_supervisor_maps_no_torch_and_its_worker_does(daemon: EmbeddedDaemon) -> None:
    (worker,) = children_of(daemon.pid)
    assert "libtorch" not in Path(f"/proc/{daemon.pid}/maps").read_text()
    assert "libtorch" in Path(f"/proc/{worker}/maps").read_text()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_does_not_stop_it(daemon: EmbeddedDaemon) -> None:
    child = os.fork()
    if child == 0:
        daemon.stop()
        os._exit(int(daemon.alive))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert daemon.alive
    assert is_running(daemon.pid)


def test_stop_leaves_nothing_behind() -> None:
    daemon = EmbeddedDaemon.start(device="cpu", timeout_s=LIMIT_S)
    pids = [daemon.pid, *children_of(daemon.pid)]
    assert len(pids) == 2
    daemon.stop()
    assert not any(is_running(pid) for pid in pids)
    assert not directory_of(daemon).exists()
    assert not daemon.alive
    daemon.stop()


@pytest.mark.parametrize("end", ["returns", "is killed"])
def test_it_ends_with_the_process_that_started_it(end: str) -> None:
    code = f"""if True:
        from dynamo_genie.runtime.connect.embedded import EmbeddedDaemon
        daemon = EmbeddedDaemon.start(device="cpu", timeout_s={LIMIT_S})
        print(daemon.pid, daemon.endpoint, flush=True)
        input()"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdin is not None
        pid, endpoint = client.stdout.readline().split()
        pids = [int(pid), *children_of(int(pid))]
        assert len(pids) == 2
        if end == "returns":
            client.stdin.write(b"\n")
            client.stdin.flush()
        else:
            client.send_signal(signal.SIGKILL)
        client.wait(LIMIT_S)
    assert eventually(lambda: not any(is_running(pid) for pid in pids))
    assert eventually(lambda: not Path(endpoint.decode().removeprefix("ipc://")).parent.exists())


def test_a_start_that_fails_shows_the_log_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(DaemonUnavailable, match=r"did not start .*--device 'toaster'"):
        EmbeddedDaemon.start(device="toaster", timeout_s=LIMIT_S)
    assert list(tmp_path.iterdir()) == []


def test_a_start_that_takes_too_long_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(DaemonUnavailable, match="not ready within"):
        EmbeddedDaemon.start(device="cpu", timeout_s=0.01)
    assert list(tmp_path.iterdir()) == []


def test_a_deep_temporary_directory_is_replaced_by_a_short_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dynamo_genie.runtime.connect.embedded import _private_directory

    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    directory = _private_directory()
    assert directory.parent == Path("/tmp")
    directory.rmdir()
    assert list(deep.iterdir()) == []
