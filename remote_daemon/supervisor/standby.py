"""The standby as the supervisor sees it: a process with PyTorch loaded (`fork_server`), of which workers are forks.

Where there is none, because it is still loading, died, or was never asked for, a worker is started as a program.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection
from contextlib import suppress

import msgspec

from dynamo_genie.child_process import child_environment
from dynamo_genie.remote_daemon.channel.parent import adopt_orphans
from dynamo_genie.remote_daemon.sandbox.fork_server import NAME, READY, Forked
from dynamo_genie.remote_daemon.sandbox.plan import Restrictions

logger = logging.getLogger(__name__)

LOADING_LIMIT_S = 60.0
ANSWER_LIMIT_S = 2.0
"""A fork takes some 20 ms; the supervisor waits for it."""
FIRST_PAUSE_S, MAX_PAUSE_S = 1.0, 60.0
MAX_ANSWER_NBYTES = 4_096
STDERR_FD = 2


class AdoptedProcess:
    """A process that is this one's child without having been started by it; as `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None

    def poll(self) -> int | None:
        """Return its exit code, the negative number of a signal, or None while it runs."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def wait(self, timeout: float) -> int:
        """Return the exit code as soon as there is one.

        Raises:
            subprocess.TimeoutExpired: It still runs after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"worker {self.pid}", timeout)
            time.sleep(0.01)
        return code

    def kill(self) -> None:
        """Kill it; its process id is its own until it was waited for."""
        if self._code is None:
            os.kill(self.pid, signal.SIGKILL)


class Standby:
    """Starts the process, and another one whenever that ends. `look` at it often, and poll `fileno()`."""

    def __init__(self, module: str, *, hide: bool) -> None:
        """Start loading `module`, whose `main` is to be a worker's.

        Args:
            hide: Keep other processes of the same user from looking into it.
        """
        adopt_orphans()
        self._module = module
        self._hide = hide
        self._pause_s = FIRST_PAUSE_S
        self._next_start = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._orders: socket.socket | None = None
        self._is_ready = False
        self._start()

    @property
    def is_loading(self) -> bool:
        """Whether it will be ready soon, so that a worker had better wait for it than start by itself."""
        return self._process is not None and not self._is_ready

    @property
    def pid(self) -> int:
        """Its process id, 0 while there is none."""
        return self._process.pid if self._process is not None else 0

    def fileno(self) -> int:
        """Return what becomes readable when it is ready, or has ended; -1 if there is nothing to wait for."""
        return self._orders.fileno() if self._orders is not None else -1

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._started = time.monotonic()
        command = [sys.executable, "-m", NAME, str(theirs.fileno()), str(os.getpid()), self._module]
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [*command, "1" if self._hide else "0"],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=STDERR_FD,
                    env=child_environment(os.environ),
                    start_new_session=True,
                )
        except OSError as error:
            ours.close()
            self._ended(f"it could not be started: {error.strerror}")
            return
        self._orders = ours
        self._orders.setblocking(False)
        self._is_ready = False

    def look(self) -> None:
        """Notice that it is ready or has ended, and start another one when it is time for that."""
        now = time.monotonic()
        if self._process is None:
            if now >= self._next_start:
                self._start()
            return
        if self._process.poll() is not None:
            self._ended(f"exit code {self._process.returncode}")
        elif not self._is_ready:
            with suppress(BlockingIOError, ConnectionError):
                self._is_ready = self._receive() == READY
            if self._is_ready:
                self._pause_s = FIRST_PAUSE_S
                logger.info("workers are forked from process %d", self._process.pid)
            elif now - self._started > LOADING_LIMIT_S:
                self._ended(f"it was not ready within {LOADING_LIMIT_S:g} s")

    def fork(self, restrictions: Restrictions, pipe_fd: int, page: int) -> tuple[AdoptedProcess, int] | None:
        """Fork a worker that has the two descriptors; return it and its number for `page`, None where it cannot be."""
        if not self._is_ready or self._orders is None:
            return None
        try:
            self._orders.settimeout(ANSWER_LIMIT_S)
            socket.send_fds(self._orders, [msgspec.json.encode(restrictions)], [pipe_fd, page])
            forked = msgspec.json.decode(self._receive(), type=Forked)
            self._orders.setblocking(False)
        except (OSError, msgspec.DecodeError) as error:  # a time-out is an OSError
            self._ended(f"it forked no worker ({error!r})")
            return None
        if forked.error:
            logger.warning("a worker cannot be forked: %s", forked.error)
            return None
        return AdoptedProcess(forked.pid), forked.note_fd

    def _receive(self) -> bytes:
        assert self._orders is not None
        return self._orders.recv(MAX_ANSWER_NBYTES)

    def _ended(self, how: str) -> None:
        """Give up this process; another one is started after a pause."""
        logger.warning("the standby of workers ended (%s); another one starts in %g s", how, self._pause_s)
        self._next_start = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)
        self.close()

    def close(self) -> None:
        """End it; workers that were forked from it stay."""
        self._is_ready = False
        if self._orders is not None:
            self._orders.close()
            self._orders = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def bury_strangers(own: Collection[int]) -> None:
    """Wait for adopted children that ended and are nobody's: compilers of workers that are gone."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None or ended.si_pid in own:
            return  # who owns it waits for it soon, and the rest is seen the next time
        os.waitpid(ended.si_pid, 0)
