"""Processes that this package starts (daemons, workers, measurements): their environment and their first words."""

from __future__ import annotations

import os
import select
import site
import subprocess
import sysconfig
import time
from collections.abc import Mapping
from pathlib import Path

from dynamo_genie import errors

DAEMON_LOG_NAME = "daemon.log"
"""Where a daemon that a client started writes, in the directory that was made for it."""


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which `import dynamo_genie` finds the same package as here.

    A bare checkout is found through `sys.path[0]`, which a child does not inherit.
    """
    home = str(Path(errors.__file__).parent.parent)
    child = {**environ, "PYTHONSAFEPATH": "1"}  # a `random.py` in the current directory is none of our business
    if home not in _installed_paths():
        known = environ.get("PYTHONPATH")
        child["PYTHONPATH"] = f"{home}{os.pathsep}{known}" if known else home
    return child


def first_line(process: subprocess.Popen[bytes], limit_s: float) -> str:
    """Return the first line that a process prints; empty when none comes whole within `limit_s`."""
    assert process.stdout is not None
    poller = select.poll()  # a program may have more descriptors than select() takes
    poller.register(process.stdout, select.POLLIN)
    deadline, data = time.monotonic() + limit_s, b""
    while not data.endswith(b"\n"):
        ready = poller.poll(max(0.0, deadline - time.monotonic()) * 1000)
        byte = os.read(process.stdout.fileno(), 1) if ready else b""
        if not byte:
            return ""
        data += byte
    return data.decode().strip()


def _installed_paths() -> set[str]:
    # putting site-packages on PYTHONPATH would let it shadow the standard library
    paths = sysconfig.get_paths()
    return {paths["purelib"], paths["platlib"], *site.getsitepackages(), site.getusersitepackages()}
