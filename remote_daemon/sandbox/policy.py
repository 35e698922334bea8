"""The policy of a daemon on its workers' sandboxes: what it was started with, and the sandbox of each worker."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from dynamo_genie.child_process import child_environment
from dynamo_genie.remote_daemon.sandbox.plan import Restrictions, WorkerUser, gaps
from dynamo_genie.remote_daemon.sandbox.surroundings import kernel, nvidia_devices

logger = logging.getLogger(__name__)

PRIVATE_FOLDERS = (".ssh", ".gnupg", ".aws", ".kube", ".docker", ".netrc", ".config")
"""What holds secrets in a home that is also a place of Python's."""

KEY_FILE = "GENIE_KEY_FILE"
"""The environment variable with a client's key; a daemon that the client started inherits it."""

BYTECODE_LIMIT_S = 600.0


@dataclass(frozen=True)
class SandboxPolicy:
    """The policy: whether workers are confined, as whom they run, what they must not read, and what they may tell."""

    confined: bool = True
    user: WorkerUser | None = None
    hidden: tuple[str, ...] = ()
    whole_errors: bool = False

    @property
    def walls(self) -> bool:
        """Whether workers are kept from other processes of their user by Landlock."""
        return self.confined and kernel().landlock > 0

    def restrictions(
        self, scratch: str, device: str, shares: tuple[str, ...] = (), models: tuple[str, ...] = ()
    ) -> Restrictions:
        """Return what a worker may do that has this directory, some with others of its tenant, and reads some."""
        home = Path.home()
        hidden = [*self.hidden, *(str(home / name) for name in PRIVATE_FOLDERS)]
        hidden += [os.environ[KEY_FILE]] if os.environ.get(KEY_FILE) else []
        return Restrictions(
            scratch=scratch,
            hidden=tuple(os.path.realpath(place) for place in hidden),
            user=self.user,
            confined=self.confined,
            cuda=device != "cpu" and bool(nvidia_devices()),
            whole_errors=self.whole_errors,
            shares=shares,
            models=models,
        )

    def announce_gaps(self) -> None:
        """Say in the log what of the sandbox this machine cannot give."""
        for gap in gaps(kernel(), confined=self.confined, is_root=os.geteuid() == 0, user=self.user):
            logger.warning("%s", gap)

    def prepare(self, module: str) -> None:
        """Have the bytecode of a fresh installation written: confined workers write none, and would start slowly."""
        if self.confined and not _has_bytecode("torch") and _may_write("torch"):
            logger.info("Python compiles the modules of workers, once for this installation")
            command = [sys.executable, "-c", f"import {module}"]
            subprocess.run(
                command,
                env=child_environment(os.environ),
                stdin=subprocess.DEVNULL,
                timeout=BYTECODE_LIMIT_S,
                check=False,
            )


def _has_bytecode(package: str) -> bool:
    origin = _origin(package)
    return origin is None or os.path.exists(importlib.util.cache_from_source(origin))


def _may_write(package: str) -> bool:
    origin = _origin(package)
    return origin is not None and os.access(os.path.dirname(origin), os.W_OK) and not sys.dont_write_bytecode


def _origin(package: str) -> str | None:
    spec = importlib.util.find_spec(package)
    return None if spec is None else spec.origin
