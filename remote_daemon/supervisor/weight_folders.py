"""The folders in which workers keep weights: one for each tenant, which no other tenant's worker can enter."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from dynamo_genie.errors import OptionError
from dynamo_genie.remote_daemon.sandbox.plan import WorkerUser

EVERYONE = "everyone"
"""The folder of clients without keys."""


def open_weight_cache(root: Path) -> Path:
    """Return the directory for the folders, which is made where there is none; workers pass it, and may not list it.

    Raises:
        OptionError: It cannot be used.
    """
    root = root.expanduser().absolute()
    try:
        root.mkdir(mode=0o711, parents=True, exist_ok=True)
        root.chmod(0o711)
    except OSError as error:
        raise OptionError(
            f"--weight-cache {root}: {error.strerror}; name a directory that the daemon may write"
        ) from None
    return root.resolve()


def folder_of(root: Path, public_key: str, user: WorkerUser | None) -> str:
    """Return the folder of a tenant, by its public key; it is made where there is none.

    Raises:
        OSError: It cannot be made, or is somebody else's.
    """
    name = hashlib.sha256(public_key.encode()).hexdigest()[:32] if public_key else EVERYONE
    folder = root / name
    folder.mkdir(mode=0o700, exist_ok=True)
    owner = (user.uid, user.gid) if user is not None else (os.geteuid(), os.getegid())
    os.chown(folder, *owner, follow_symlinks=False)
    folder.chmod(0o700)
    return str(folder.resolve())
