"""The scratch directory of a worker: its sockets' files, what compilers make, caches. It ends with the worker.

Private to one worker, so that no tenant finds in a cache what another one left there.
"""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from dynamo_genie.remote_daemon.sandbox.plan import WorkerUser

CACHES: Mapping[str, str] = MappingProxyType(
    {
        "TMPDIR": "",
        "TORCHINDUCTOR_CACHE_DIR": "inductor",
        "TRITON_CACHE_DIR": "triton",
        "CUDA_CACHE_PATH": "cuda",
        "CUPY_CACHE_DIR": "cupy",
        "XDG_CACHE_HOME": "cache",
    }
)
"""The environment variables by which libraries are told where to write, and the directories in the scratch one."""


SETTLED_S = 60.0
"""Younger directories are left alone: whoever makes one may not have locked it yet."""


class Scratch:
    """A directory that only the worker's user can enter; locked by this process, so that others see that it is used."""

    def __init__(self, parent: str, prefix: str, user: WorkerUser | None) -> None:
        self.path = os.path.realpath(tempfile.mkdtemp(prefix=prefix, dir=parent))
        self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if user is not None:
            os.chown(self.path, user.uid, user.gid)

    def remove(self) -> None:
        """Remove it with all that is in it; again does nothing."""
        if self._fd >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._fd)
            self._fd = -1


def sweep(parent: str, prefix: str, user: WorkerUser | None) -> None:
    """Remove what daemons left that were killed: directories of ours that nobody has locked."""
    owners = {os.geteuid()} | ({user.uid} if user is not None else set())
    for path in Path(parent).glob(f"{glob.escape(prefix)}*"):
        with suppress(OSError):  # it is in use, or somebody else's
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                found = os.fstat(fd)
                if found.st_uid in owners and time.time() - found.st_mtime > SETTLED_S:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(fd)


def environment_of(scratch: str) -> dict[str, str]:
    """Return the variables that have a confined worker write there, and leave the bytecode of modules alone."""
    places = {name: os.path.join(scratch, directory) if directory else scratch for name, directory in CACHES.items()}
    return {**places, "PYTHONDONTWRITEBYTECODE": "1"}
