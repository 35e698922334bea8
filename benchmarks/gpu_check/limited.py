"""Runs a command for so long at most; nothing that it started outlives it.

A daemon's worker has a session of its own, so killing a process group would not reach it. What the command starts is
found by a mark in its environment instead, where `/proc` shows one; the group goes in any case.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from uuid import uuid4

MARK = "GPU_CHECK_STAGE"
KILL_LIMIT_S = 10.0
LOOK_AGAIN_S = 0.02


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        seconds: How long it ran.
        code: Its exit code, negative for a signal; None where its time was up.
        left_behind: Processes that a kill did not end, such as one that waits for a device that hangs.
    """

    seconds: float
    code: int | None
    left_behind: tuple[int, ...] = ()


def run_limited(command: Sequence[str], limit_s: float, log: IO[bytes], environ: Mapping[str, str]) -> Ended:
    """Run a command; its output goes to `log`, and its standard input ends when this process does."""
    mark = uuid4().hex
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**environ, MARK: mark},
        start_new_session=True,
    )
    started = time.monotonic()
    code: int | None = None
    try:
        with suppress(subprocess.TimeoutExpired):
            code = process.wait(limit_s)
        seconds = time.monotonic() - started
    except BaseException:  # Ctrl-C, SIGTERM
        _end_all(process, mark)
        raise
    left_behind = _end_all(process, mark)
    return Ended(seconds, code, left_behind)


def _end_all(process: subprocess.Popen[bytes], mark: str) -> tuple[int, ...]:
    """Kill a process and all that carry its mark; return those that are still there."""
    assert process.stdin is not None
    deadline = time.monotonic() + KILL_LIMIT_S
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    while (alive := _marked(mark)) and time.monotonic() < deadline:
        for pid in alive:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.poll()  # or it would stay in the list as a zombie of ours
        time.sleep(LOOK_AGAIN_S)
    with suppress(subprocess.TimeoutExpired):
        process.wait(KILL_LIMIT_S)
    process.stdin.close()
    return tuple(alive)


def _marked(mark: str) -> list[int]:
    """Return the processes that were started with this mark."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environ = (folder / "environ").read_bytes()
        except OSError:
            continue  # it ended meanwhile, or is somebody else's
        if wanted in environ.split(b"\0"):
            found.append(int(folder.name))
    return found
