"""A daemon on any endpoint for the length of a measurement: what `genie daemon` starts, in a process of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from dynamo_genie.child_process import child_environment, first_line
from dynamo_genie.errors import DaemonUnavailable
from dynamo_genie.runtime.connect.admission import request_status
from dynamo_genie.runtime.wire.key_file import ClientKeys
from dynamo_genie.runtime.wire.messages import DaemonStatus, WorkerStatus

START_LIMIT_S = 120.0
STOP_LIMIT_S = 15.0
STATUS_LIMIT_S = 10.0
TCP = "tcp://127.0.0.1:*"


@dataclass(frozen=True)
class RunningDaemon:
    """Where a daemon listens, and the processes that hold its sessions and tensors. `keys` are a client's, if any."""

    endpoint: str
    keys: ClientKeys | None = None

    @property
    def status(self) -> DaemonStatus:
        """What the daemon reports of itself."""
        return request_status(self.endpoint, self.keys, STATUS_LIMIT_S)

    @property
    def worker(self) -> WorkerStatus:
        """What the daemon reports of its only worker."""
        [worker] = self.status.workers
        return worker

    @property
    def supervisor_pid(self) -> int:
        """The process id of its supervisor, as it reports it."""
        return self.status.pid

    @property
    def worker_pid(self) -> int:
        """The process id of its worker, as the daemon reports it."""
        return self.worker.pid


@contextlib.contextmanager
def running_daemon(
    listen: str = TCP,
    device: str = "cpu",
    on_host: Callable[[Sequence[str]], list[str]] = list,
    memory_limit: str = "0",
    *,
    kept: bool = False,
    more: Sequence[str] = (),
) -> Iterator[RunningDaemon]:
    """Start a daemon and end it afterwards.

    Args:
        listen: Where; its loopback address, whatever host it runs on.
        device: auto, cpu or cuda:N.
        on_host: Returns the command line that runs one on the daemon's host; this machine when not given.
        memory_limit: As the daemon's option; 0 lets it choose.
        kept: Whether its supervisor is started again when that dies; such a daemon does not end with this process.
        more: Other options of it, as on the command line.

    Raises:
        DaemonUnavailable: It did not come up; the message ends with its log.
    """
    command = [sys.executable, "-m", "dynamo_genie.cli", "daemon", "--listen", listen, "--device", device]
    command += ["--memory-limit", memory_limit, *([] if kept else ["--parent-pid", str(os.getpid())]), *more]
    with tempfile.TemporaryFile() as log, started(on_host(command), "the daemon", START_LIMIT_S, log) as endpoint:
        yield RunningDaemon(endpoint)


@contextlib.contextmanager
def started(command: Sequence[str], what: str, limit_s: float, log: IO[bytes] | None = None) -> Iterator[str]:
    """Start a process, yield what it prints behind `ready`, and end it afterwards.

    Raises:
        DaemonUnavailable: It did not print that in time; the message ends with its log, where it writes one.
    """
    environment = child_environment(os.environ)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=environment)
    try:
        line = first_line(process, limit_s)
        if not line.startswith("ready "):
            raise DaemonUnavailable(f"{what} was not ready within {limit_s:g} s{_end_of(log)}")
        yield line.removeprefix("ready ")
    finally:
        end(process)


@contextlib.contextmanager
def ipc_endpoint(name: str) -> Iterator[str]:
    """Yield an ipc endpoint in a private directory that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="genie-bench-") as directory:
        yield f"ipc://{directory}/{name}"


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, then make it."""
    process.terminate()
    try:
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_LIMIT_S)
    if process.stdout is not None:
        process.stdout.close()


def _end_of(log: IO[bytes] | None) -> str:
    if log is None:
        return ""
    log.seek(0)
    return f"; the end of its log:\n{log.read()[-4000:].decode(errors='replace').strip()}"
