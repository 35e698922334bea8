"""One worker process as the supervisor sees it: started, linked, watched, killed. Decides nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress

import msgspec

from dynamo_genie.remote_daemon.channel.parent import open_pidfd
from dynamo_genie.remote_daemon.channel.pipe import SupervisorPipe, make_pipe
from dynamo_genie.remote_daemon.channel.program_note import ProgramNote, make_page
from dynamo_genie.remote_daemon.channel.worker_config import WorkerConfig
from dynamo_genie.remote_daemon.sandbox.enter import PIPE_FD, command_into, environment_into
from dynamo_genie.remote_daemon.sandbox.plan import Restrictions
from dynamo_genie.remote_daemon.sandbox.scratch import Scratch
from dynamo_genie.remote_daemon.supervisor.memory_groups import MemoryGroup
from dynamo_genie.remote_daemon.supervisor.oom import BY_THE_KERNEL, KILLED
from dynamo_genie.remote_daemon.supervisor.standby import AdoptedProcess, Standby

WORKER_COMMAND: tuple[str, ...] = (sys.executable, "-m", "dynamo_genie.remote_daemon.worker.worker")
STDERR_FD = 2


class WorkerProcess:
    """A started worker. Watch `exit_fd` (or call `poll` regularly where it is -1) and `pipe`.

    Attributes:
        misbehaved: Whether it was killed for what it said.
    """

    def __init__(
        self,
        command: tuple[str, ...],
        config: WorkerConfig,
        restrictions: Restrictions,
        scratch: Scratch,
        standby: Standby | None = None,
        group: MemoryGroup | None = None,
    ) -> None:
        """Start `command`, a module of Python's, in a sandbox; owns the scratch directory from now on.

        Args:
            standby: Forks the worker, if it can.
            group: Where its memory is counted.
        """
        self.pipe: SupervisorPipe
        self._process: subprocess.Popen[bytes] | AdoptedProcess
        self.pipe, theirs = make_pipe()
        page = make_page()
        self.note = ProgramNote(page)
        self._scratch = scratch
        self.misbehaved = False
        try:
            with theirs:
                forked = standby.fork(restrictions, theirs.fileno(), page) if standby is not None else None
                started = _start(command, restrictions, theirs.fileno(), page) if forked is None else forked
                self._process, note_fd = started
        except BaseException:
            self.pipe.close()
            self.note.close()
            scratch.remove()
            raise
        finally:
            os.close(page)
        self.exit_fd = open_pidfd(self._process.pid)
        self.group = group
        if group is not None:
            with suppress(OSError):  # it has ended already, or the group was removed by somebody else
                group.add(self._process.pid)
        self.pipe.send(msgspec.structs.replace(config, note_fd=note_fd))

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    def poll(self) -> str | None:
        """Return how the process ended, for people, or None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        how = describe_exit(code)
        return f"{how}{BY_THE_KERNEL}" if how == KILLED and self.group is not None and self.group.kills else how

    def kill(self) -> None:
        """End the process now; its end shows up at `exit_fd` as any other."""
        self._process.kill()

    def close(self, timeout_s: float = 5.0) -> None:
        """Make sure that nothing of the worker is left: process, descriptors, socket files."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(timeout_s)
        self.pipe.close()
        self.note.close()
        if self.exit_fd >= 0:
            os.close(self.exit_fd)
            self.exit_fd = -1
        self._scratch.remove()


def _start(
    command: tuple[str, ...], restrictions: Restrictions, pipe_fd: int, page: int
) -> tuple[subprocess.Popen[bytes], int]:
    process = subprocess.Popen(
        [*command_into(restrictions, command), PIPE_FD, str(pipe_fd)],
        pass_fds=(pipe_fd, page),
        stdin=subprocess.DEVNULL,
        stdout=STDERR_FD,  # the daemon's stdout carries the `ready` line and nothing else
        env=environment_into(restrictions),
        start_new_session=True,  # Ctrl-C in the terminal is for the supervisor, which then drains
    )
    return process, page


def describe_exit(code: int) -> str:
    """Return "exit code 3" or "killed by SIGSEGV"."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
