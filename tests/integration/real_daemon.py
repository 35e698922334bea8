"""One way to run `genie daemon` with its real worker in processes of their own, and to look into it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from dynamo_genie.child_process import child_environment
from dynamo_genie.remote_daemon.model_files import indexer
from dynamo_genie.remote_daemon.sandbox import fork_server
from dynamo_genie.runtime.connect.admission import request_status
from dynamo_genie.runtime.connect.keys import load_client_keys
from dynamo_genie.runtime.wire import messages as m
from tests.remote_daemon.fixtures import children_of, eventually, process_name

LIMIT_S = 110.0
REPOSITORY = Path(__file__).parents[2]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment for a child that runs this checkout with one thread."""
    return child_environment({**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **(extra or {})})


class RealDaemon:
    """A daemon on a free port of this machine; ends with the `with` block, whatever state it is in."""

    program: Sequence[str] = ("-m", "dynamo_genie.cli")

    def __init__(
        self,
        *,
        device: str = "cpu",
        memory_limit: str = "0",
        keys: Path | None = None,
        grace_s: float = 30.0,
        more: Sequence[str] = (),
    ) -> None:
        self._command = command = [sys.executable, *self.program, "daemon", "--listen", "tcp://127.0.0.1:*"]
        command += ["--device", device, "--memory-limit", memory_limit, "--grace", str(grace_s), *more]
        command += ["--keys", str(keys)] if keys is not None else []
        self._start()

    def _start(self) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the daemon
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=self._log, stdin=subprocess.DEVNULL, env=environment()
        )
        try:
            self.endpoint = self._wait_ready()
        except BaseException:
            self.stop()
            raise

    def restart(self) -> None:
        """Kill it and start another one at the same endpoint."""
        self.process.kill()
        self.process.wait(20)
        self.stop()
        self._command[self._command.index("--listen") + 1] = self.endpoint
        self._start()

    def _wait_ready(self) -> str:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], LIMIT_S)[0], f"not ready: {self.log()}"
        line = self.process.stdout.readline().decode()
        assert line.startswith("ready "), self.log()
        return line.split()[1]

    def log(self) -> str:
        """Return what the daemon and its workers wrote."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    @property
    def pid(self) -> int:
        """The supervisor's; `process` is the one that keeps it."""
        (pid,) = children_of(self.process.pid)
        return pid

    def worker(self) -> int:
        """Return the process id of the only worker."""
        (pid,) = self._workers()
        return pid

    def kill_worker(self) -> None:
        """Kill the worker, or the one that is about to take its place."""
        assert eventually(lambda: len(self._workers()) == 1)
        os.kill(self.worker(), signal.SIGKILL)

    def _workers(self) -> list[int]:
        others = fork_server.PROCESS_NAME, indexer.PROCESS_NAME
        return [pid for pid in children_of(self.pid) if process_name(pid) not in others]

    def status(self, key_file: Path | None = None) -> m.WorkerStatus:
        """Return what the worker of this key holds."""
        (worker,) = self.statuses(key_file)
        return worker

    def statuses(self, key_file: Path | None = None) -> tuple[m.WorkerStatus, ...]:
        """Return what the workers of this key hold, one a device."""
        keys = load_client_keys(str(key_file)) if key_file is not None else None
        return request_status(self.endpoint, keys, LIMIT_S).workers

    def stop(self) -> None:
        """End it, also when it is stopped or hangs."""
        supervisors = children_of(self.process.pid) if self.process.poll() is None else []
        workers = [worker for supervisor in supervisors for worker in children_of(supervisor)]
        for pid in [*workers, *supervisors, self.process.pid]:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()

    def __enter__(self) -> RealDaemon:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()


class SimulatedDaemon(RealDaemon):
    """A daemon on the CPU whose worker manages host memory as a GPU's: in a pool, with a host to offload to."""

    program = ("-m", "tests.remote_daemon.simulated_worker")


def run_python(code: str, *arguments: str, environ: Mapping[str, str] | None = None) -> str:
    """Run a program in a fresh interpreter and return what it printed; it must end well and in time."""
    return run_interpreter("-c", code, *arguments, environ=environ)


def run_interpreter(*arguments: str, environ: Mapping[str, str] | None = None, limit_s: float = LIMIT_S) -> str:
    """Run a fresh interpreter and return what it printed; it must end well and in time."""
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=limit_s,
        env=environment(environ),
        cwd=REPOSITORY,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


__all__ = [
    "LIMIT_S",
    "REPOSITORY",
    "RealDaemon",
    "SimulatedDaemon",
    "children_of",
    "environment",
    "eventually",
    "run_interpreter",
    "run_python",
]
