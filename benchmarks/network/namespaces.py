"""Network namespaces of a measurement: their names, and their end with all that runs in them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence

from dynamo_genie.errors import GenieError

COMMAND_LIMIT_S = 20.0
_NAME = re.compile(r"genie-(\d+)-[\w-]+")


def name_of(owner: int, host: str) -> str:
    """Return the namespace of a host; it names the process that owns it."""
    return f"genie-{owner}-{host}"


def run(*command: str) -> str:
    """Run a command of the system and return what it printed.

    Raises:
        GenieError: It failed, or took too long.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GenieError(f"{' '.join(command)}: {error}") from None
    if done.returncode:
        raise GenieError(f"{' '.join(command)} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def existing() -> list[str]:
    """Return the namespaces of all measurements on this machine."""
    listed = (line.split()[0] for line in run("ip", "netns", "list").splitlines() if line.strip())
    return [name for name in listed if _NAME.fullmatch(name)]


def abandoned() -> list[str]:
    """Return the namespaces whose owner is gone."""
    return [name for name in existing() if (found := _NAME.fullmatch(name)) and not _lives(int(found[1]))]


def remove(namespaces: Iterable[str]) -> None:
    """End every process in these namespaces, then the namespaces."""
    there = [name for name in namespaces if name in existing()]
    for _ in range(50):
        pids = [pid for name in there for pid in pids_in(name)]
        if not pids:
            break
        for pid in pids:
            _kill(pid)
        time.sleep(0.1)
    for name in there:
        run("ip", "netns", "delete", name)


def pids_in(namespace: str) -> Sequence[int]:
    """Return the processes in a namespace."""
    return [int(pid) for pid in run("ip", "netns", "pids", namespace).split()]


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
