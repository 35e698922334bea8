"""One way to run `genie daemon` in a process of its own, with the torch-free worker."""

from __future__ import annotations

import gc
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from dynamo_genie.child_process import child_environment

FAKE_WORKER = (sys.executable, "-m", "tests.remote_daemon.fake_worker")
LIMIT_S = 30.0

SERVE = """
import resource, sys
from dynamo_genie.remote_daemon.supervisor.keys import load_server_keys
from dynamo_genie.remote_daemon.supervisor.serve import serve, serve_kept
from dynamo_genie.remote_daemon.supervisor.config import SupervisorConfig
import tests.remote_daemon.fixtures as f
arguments = dict(part.split("=", 1) for part in sys.argv[1:])
keys, parent = arguments.pop("keys", None), arguments.pop("parent", None)
run = serve_kept if arguments.pop("kept", None) else serve
nofile = arguments.pop("nofile", None)
if nofile:
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(nofile), int(nofile)))
sys.exit(run(SupervisorConfig(
    listen=arguments.pop("listen"), keys=load_server_keys(keys) if keys else None, heartbeat_s=0.2,
    parent_pid=int(parent) if parent else None, worker_command=f.FAKE_WORKER,
    **{name: float(value) for name, value in arguments.items()})))
"""


class DaemonProcess:
    """A running daemon; `endpoint` once it said that it is ready."""

    def __init__(self, behaviour: str = "", **arguments: str) -> None:
        arguments = {"listen": "tcp://127.0.0.1:*", **arguments}
        repository = str(Path(__file__).parents[2])
        environ = {**os.environ, "GENIE_TEST_WORKER": behaviour, "PYTHONPATH": repository}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, *(f"{name}={value}" for name, value in arguments.items())],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=child_environment(environ),
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_ready(self) -> str:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], LIMIT_S)[0], "the daemon said nothing"
        line = self.process.stdout.readline().decode()
        assert line.startswith("ready "), (line, self.process.stderr.read().decode())
        self.endpoint = line.split()[1]
        return self.endpoint

    def wait_exit(self) -> tuple[int, str, str]:
        """Return exit code, rest of stdout, stderr."""
        out, err = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, out.decode(), err.decode()

    def workers(self) -> list[int]:
        return children_of(self.pid)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def children_of(pid: int) -> list[int]:
    """Return the processes that any thread of `pid` started and that still run."""
    text = " ".join(children.read_text() for children in Path(f"/proc/{pid}/task").glob("*/children"))
    return [int(child) for child in text.split() if is_running(int(child))]


def left_behind() -> list[str]:
    """Return the command lines of what tests of this process started and did not end.

    The standard library's own process does not count: any test that uses `multiprocessing` may have started it, and
    it stays until Python ends. The workers of a loader stay until the loader is collected.
    """
    gc.collect()
    lines = [
        Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode() for child in children_of(os.getpid())
    ]
    return [line for line in lines if "multiprocessing.resource_tracker" not in line]


def process_name(pid: int) -> str:
    """Return how `ps` shows a process."""
    return Path(f"/proc/{pid}/comm").read_text().strip()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def eventually(condition: Callable[[], object], limit_s: float = LIMIT_S) -> bool:
    """Wait until `condition` holds, at most `limit_s`."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return bool(condition())
