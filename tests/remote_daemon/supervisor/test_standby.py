"""Workers that are forked from a process which has everything loaded, as real processes without torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dynamo_genie.child_process import child_environment
from dynamo_genie.remote_daemon.sandbox import enter, fork_server
from dynamo_genie.remote_daemon.supervisor.keys import create_client_keys, create_server_keys
from dynamo_genie.runtime.connect.admission import request_status
from dynamo_genie.runtime.connect.keys import load_client_keys
from tests.remote_daemon.fixtures import LIMIT_S, DaemonProcess, children_of, eventually, is_running, process_name
from tests.remote_daemon.supervisor.test_supervisor import admit, attach

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="orphans are adopted on Linux only")

Start = Callable[..., DaemonProcess]
STANDBY = {"standby": "1"}
FORKED = "-m\0" + fork_server.NAME


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def standby_of(daemon: DaemonProcess) -> int:
    """Return the process that workers are forked from; a fork of it bears its name for a moment."""
    return min(pid for pid in daemon.workers() if process_name(pid) == fork_server.PROCESS_NAME)


def worker_of(daemon: DaemonProcess) -> int:
    (worker,) = request_status(daemon.endpoint, None, LIMIT_S).workers
    return worker.pid


def test_a_worker_is_a_fork_and_the_supervisors_child(start_daemon: Start) -> None:
    daemon = start_daemon(**STANDBY)
    admission, lost = admit(daemon.wait_ready())
    with admission:
        attach(admission)
        worker = worker_of(daemon)
        assert sorted(daemon.workers()) == sorted([standby_of(daemon), worker])
        assert FORKED in command_of(worker)
        assert process_name(worker) == enter.PROCESS_NAME
        assert os.getsid(worker) == worker
    assert lost == []


def test_how_a_forked_worker_ended_is_told_and_the_next_one_is_another_fork(start_daemon: Start) -> None:
    daemon = start_daemon(**STANDBY)
    admission, lost = admit(daemon.wait_ready())
    standby, worker = standby_of(daemon), worker_of(daemon)
    with admission:
        os.kill(worker, signal.SIGKILL)
        assert eventually(lambda: lost)
    assert "killed by SIGKILL" in str(lost[0])
    assert eventually(lambda: worker_of(daemon) not in (0, worker))
    assert standby_of(daemon) == standby
    assert children_of(standby) == []


def test_without_its_standby_a_daemon_serves_on_and_starts_another(start_daemon: Start) -> None:
    daemon = start_daemon(**STANDBY)
    endpoint = daemon.wait_ready()
    standby, worker = standby_of(daemon), worker_of(daemon)
    os.kill(standby, signal.SIGKILL)
    assert eventually(lambda: not is_running(standby))
    assert worker_of(daemon) == worker
    os.kill(worker, signal.SIGKILL)
    assert eventually(lambda: worker_of(daemon) not in (0, worker))
    admission, _ = admit(endpoint)
    with admission:
        attach(admission)
    assert eventually(lambda: any(process_name(pid) == fork_server.PROCESS_NAME for pid in daemon.workers()))


def test_a_standby_that_forks_no_more_is_replaced(start_daemon: Start) -> None:
    daemon = start_daemon(**STANDBY)
    endpoint = daemon.wait_ready()
    standby = standby_of(daemon)
    worker = worker_of(daemon)
    os.kill(standby, signal.SIGSTOP)
    os.kill(worker, signal.SIGKILL)
    assert eventually(lambda: worker_of(daemon) not in (0, worker))
    admission, _ = admit(endpoint)
    with admission:
        attach(admission)
    assert eventually(lambda: not is_running(standby))


def test_nothing_is_left_of_a_daemon_that_was_killed(start_daemon: Start) -> None:
    daemon = start_daemon(**STANDBY)
    daemon.wait_ready()
    processes = daemon.workers()
    assert len(processes) == 2
    daemon.process.kill()
    assert eventually(lambda: not any(is_running(pid) for pid in processes))


def test_each_tenant_has_a_fork_with_keys_of_its_own(start_daemon: Start, tmp_path: Path) -> None:
    server = create_server_keys(tmp_path)
    keys = [load_client_keys(create_client_keys(server, name)) for name in ("one", "two")]
    daemon = start_daemon(keys=str(tmp_path), **STANDBY)
    endpoint = daemon.wait_ready()
    first, second = (admit(endpoint, each)[0] for each in keys)
    with first, second:
        assert attach(first, keys[0]) == attach(second, keys[1])
        assert first.welcome.worker_key != second.welcome.worker_key
        assert len(daemon.workers()) == 3


def test_what_dies_while_it_starts_says_so(start_daemon: Start) -> None:
    daemon = start_daemon("crashes", **STANDBY)
    code, _, log = daemon.wait_exit()
    assert code != 0
    assert "exit code 3" in log


ORPHANS = """
import os, signal, subprocess
from dynamo_genie.remote_daemon.channel.parent import adopt_orphans
from dynamo_genie.remote_daemon.sandbox.fork_server import fork_orphan
from dynamo_genie.remote_daemon.supervisor.standby import AdoptedProcess, bury_strangers

adopt_orphans()
read, write = os.pipe()
between = os.fork()
if between == 0:
    for code in (7, 8, 0):
        pid = fork_orphan()
        if pid == 0:
            signal.pause() if code == 0 else os._exit(code)
        os.write(write, f"{pid} ".encode())
    os._exit(0)
os.waitpid(between, 0)
ours, strange, waiting = map(int, os.read(read, 100).split())
assert AdoptedProcess(ours).wait(10) == 7
os.waitid(os.P_PID, strange, os.WEXITED | os.WNOWAIT)
bury_strangers({waiting})
try:
    os.waitpid(strange, os.WNOHANG)
    raise SystemExit("the stranger was not buried")
except ChildProcessError:
    pass
process = AdoptedProcess(waiting)
assert process.poll() is None
try:
    process.wait(0.05)
    raise SystemExit("it did not wait")
except subprocess.TimeoutExpired:
    pass
process.kill()
assert process.wait(10) == -9
process.kill()
bury_strangers({waiting})
print("done")
"""


def test_orphans_are_waited_for_like_children() -> None:
    repository = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", ORPHANS],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env=child_environment({**os.environ, "PYTHONPATH": str(repository)}),
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
