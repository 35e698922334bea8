"""The processes that index the daemon's models, one a directory: started with the daemon, watched, ended with it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dynamo_genie.errors import OptionError
from dynamo_genie.remote_daemon.model_files.digest_index import FOLDER
from dynamo_genie.remote_daemon.sandbox.enter import command_into, environment_into
from dynamo_genie.remote_daemon.sandbox.plan import WorkerUser
from dynamo_genie.remote_daemon.sandbox.policy import SandboxPolicy
from dynamo_genie.remote_daemon.sandbox.scratch import Scratch, sweep

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "dynamo_genie.remote_daemon.model_files.indexer")
SCRATCH_PREFIX = "genie-index-"
STDERR_FD = 2
END_S = 5.0


def check_model_dirs(directories: Sequence[Path]) -> tuple[Path, ...]:
    """Return directories for models, without links in their paths.

    Raises:
        OptionError: One is none.
    """
    found = tuple(Path(os.path.realpath(directory.expanduser())) for directory in directories)
    for directory in found:
        if not directory.is_dir():
            raise OptionError(
                f"--model-dir {directory}: name a directory with safetensors files, or with folders of them"
            )
    return found


class ModelIndexes:
    """The indexes of some directories, and the processes that keep them up to date.

    Attributes:
        folders: Where the index of each directory is: in the directory, or where that may not be written, in one that
            lasts as long as the daemon.
    """

    def __init__(self, directories: Sequence[Path], policy: SandboxPolicy) -> None:
        """Start one process a directory."""
        self._scratches: list[Scratch] = []
        self._processes: dict[Path, subprocess.Popen[bytes]] = {}
        if directories:
            sweep(tempfile.gettempdir(), SCRATCH_PREFIX, policy.user)
        self.folders = tuple(self._folder_in(directory, policy.user) for directory in directories)
        for directory, folder in zip(directories, self.folders, strict=True):
            self._start(directory, folder, policy)

    @property
    def pids(self) -> set[int]:
        """The process ids."""
        return {process.pid for process in self._processes.values()}

    def look(self) -> None:
        """Say in the log when one has ended; models are served without it."""
        for directory, process in list(self._processes.items()):
            if process.poll() is not None:
                logger.warning("%s is not indexed any more: its process ended", directory)
                del self._processes[directory]

    def close(self) -> None:
        """End them."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait(END_S)
        self._processes.clear()
        for scratch in self._scratches:
            scratch.remove()

    def _folder_in(self, directory: Path, user: WorkerUser | None) -> Path:
        folder = directory / FOLDER
        try:
            folder.mkdir(mode=0o755, exist_ok=True)
            if user is not None:
                os.chown(folder, user.uid, user.gid, follow_symlinks=False)
            if folder.is_dir() and not folder.is_symlink() and os.access(folder, os.W_OK):
                return folder
        except OSError as error:
            logger.info("%s cannot be written (%s): its index lasts as long as the daemon", folder, error.strerror)
        scratch = Scratch(tempfile.gettempdir(), SCRATCH_PREFIX, user)
        self._scratches.append(scratch)
        return Path(scratch.path)

    def _start(self, directory: Path, folder: Path, policy: SandboxPolicy) -> None:
        restrictions = policy.restrictions(str(folder), "cpu", models=(str(directory),))
        arguments = [str(directory), str(folder), str(os.getpid())]
        try:
            self._processes[directory] = subprocess.Popen(
                [*command_into(restrictions, COMMAND), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=STDERR_FD,
                env=environment_into(restrictions),
                start_new_session=True,
            )
        except OSError as error:
            logger.warning("%s is not indexed: %s", directory, error.strerror)
