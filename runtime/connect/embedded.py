"""A daemon of this process's own: started on a private socket, gone with the process that started it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from pathlib import Path

from dynamo_genie.child_process import DAEMON_LOG_NAME, child_environment, first_line
from dynamo_genie.errors import DaemonUnavailable
from dynamo_genie.runtime.wire.limits import MAX_IPC_PATH_NBYTES

LONGEST_SUFFIX = "/genie.worker-abcdefgh/c"
LOG_TAIL_NBYTES = 4_000
STOP_TIMEOUT_S = 3.0
READY = "ready "


class EmbeddedDaemon:
    """A running private daemon at `endpoint`. It ends with `stop`, at interpreter exit, or when this process dies."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path, endpoint: str) -> None:
        self.endpoint = endpoint
        self.pid = process.pid
        self._process = process
        self._directory = directory
        self._finalizer = weakref.finalize(self, _end, process, directory, os.getpid())

    @classmethod
    def start(
        cls, *, device: str = "auto", memory_limit: int = 0, threads: int | None = None, timeout_s: float = 120.0
    ) -> EmbeddedDaemon:
        """Start a daemon for this process and wait until it can serve.

        Args:
            device: "auto", "cpu" or "cuda:N".
            memory_limit: Bytes that the daemon may keep resident; 0 lets it choose.
            threads: Threads of its operators; some round differently with another number than the client's.
            timeout_s: How long to wait for it; importing torch is most of that.

        Raises:
            DaemonUnavailable: It did not come up; the message ends with what it wrote to its log.
        """
        directory = _private_directory()
        command = _command(f"ipc://{directory}/genie", device, memory_limit)
        try:
            process = _spawn(command, directory, threads)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        try:
            endpoint = _wait_ready(process, directory, timeout_s)
        except BaseException:
            _end(process, directory, os.getpid())
            raise
        return cls(process, directory, endpoint)

    @property
    def alive(self) -> bool:
        """Whether the daemon still runs; always false in a forked child, whose daemon it is not."""
        return self._finalizer.alive and _is_ours(self._finalizer) and self._process.poll() is None

    def stop(self) -> None:
        """End the daemon in good order and remove its directory; again, or in a forked child, does nothing."""
        self._finalizer()


def _is_ours(finalizer: weakref.finalize[..., EmbeddedDaemon]) -> bool:
    details = finalizer.peek()
    return details is not None and details[2][2] == os.getpid()


def _private_directory() -> Path:
    """Make a directory that only this user can enter, with a path short enough for a socket in it."""
    for parent in dict.fromkeys((tempfile.gettempdir(), "/tmp")):
        directory = tempfile.mkdtemp(prefix="genie-", dir=parent)
        if len(os.fsencode(directory + LONGEST_SUFFIX)) <= MAX_IPC_PATH_NBYTES:
            return Path(directory)
        os.rmdir(directory)
    raise DaemonUnavailable(f"no directory for a socket: paths under {parent} exceed {MAX_IPC_PATH_NBYTES} bytes")


def _command(listen: str, device: str, memory_limit: int) -> list[str]:
    command = [sys.executable, "-m", "dynamo_genie.cli", "daemon", "--listen", listen, "--device", device]
    command += ["--parent-pid", str(os.getpid()), "--owns-directory"]
    return command + (["--memory-limit", str(memory_limit)] if memory_limit else [])


def _spawn(command: list[str], directory: Path, threads: int | None) -> subprocess.Popen[bytes]:
    with (directory / DAEMON_LOG_NAME).open("wb") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=_environment(threads),
            start_new_session=True,  # Ctrl-C is for the program, which ends its daemon itself
        )


def _environment(threads: int | None) -> dict[str, str]:
    environ = child_environment(os.environ)
    if threads is not None:
        environ["OMP_NUM_THREADS"] = str(threads)
    return environ


def _wait_ready(process: subprocess.Popen[bytes], directory: Path, timeout_s: float) -> str:
    deadline = time.monotonic() + timeout_s
    line = first_line(process, timeout_s)
    if line.startswith(READY):
        return line.removeprefix(READY)
    if time.monotonic() >= deadline:
        what = f"the embedded daemon was not ready within {timeout_s:g} s"
    else:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        what = f"the embedded daemon did not start (exit code {process.poll()})"
    tail = _log_tail(directory)
    raise DaemonUnavailable(f"{what}: {tail.splitlines()[-1]}\nThe end of its log:\n{tail}")


def _log_tail(directory: Path) -> str:
    try:
        data = (directory / DAEMON_LOG_NAME).read_bytes()[-LOG_TAIL_NBYTES:]
    except OSError as error:
        return f"(no log: {error})"
    return data.decode(errors="replace").strip() or "(it wrote nothing)"


def _end(process: subprocess.Popen[bytes], directory: Path, owner_pid: int) -> None:
    """Stop the daemon that `owner_pid` started; other processes leave it alone."""
    if os.getpid() != owner_pid:
        return
    # the first signal drains, the second one says that nobody waits for what still runs
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
            break
    if process.stdout is not None:
        process.stdout.close()
    shutil.rmtree(directory, ignore_errors=True)
