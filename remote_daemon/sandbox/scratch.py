"""The scratch directory of a worker: its sockets' files, what compilers make, caches. It ends with the worker.

Private to one worker, so that no tenant finds in a cache what another one left there.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
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


def make_scratch(parent: str, prefix: str, user: WorkerUser | None) -> str:
    """Make a directory that only the worker's user can enter."""
    directory = os.path.realpath(tempfile.mkdtemp(prefix=prefix, dir=parent))
    if user is not None:
        os.chown(directory, user.uid, user.gid)
    return directory


def remove_scratch(directory: str) -> None:
    """Remove it with all that is in it."""
    shutil.rmtree(directory, ignore_errors=True)


def environment_of(scratch: str) -> dict[str, str]:
    """Return the variables that have a confined worker write there, and leave the bytecode of modules alone."""
    places = {name: os.path.join(scratch, directory) if directory else scratch for name, directory in CACHES.items()}
    return {**places, "PYTHONDONTWRITEBYTECODE": "1"}
