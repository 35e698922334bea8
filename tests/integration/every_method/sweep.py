"""Runs every case in processes of their own, one after another, and gathers a verdict for each.

A process that dies or hangs gives its last case the verdict `dies`, and another goes on behind it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests.integration.every_method.worker import MARK
from tests.integration.real_daemon import REPOSITORY, environment

CASE_LIMIT_S = 120.0
START_LIMIT_S = 300.0
DIES = "dies"


@dataclass(frozen=True)
class Finding:
    """What came of one case; `verdict` is None where it equals eager."""

    name: str
    verdict: str | None
    text: str

    @property
    def member(self) -> str:
        """The member of `torch.Tensor` that the case is about."""
        return self.name.split()[0]


def sweep(backend: str, mode: str, only: Sequence[str] = (), first: int = 0) -> Iterator[Finding]:
    """Yield the findings of all cases in a mode, in order, from a number on."""
    running: int | None = first
    while running is not None:
        running = yield from _run(backend, mode, running, only)


def _run(backend: str, mode: str, first: int, only: Sequence[str]) -> Generator[Finding, None, int | None]:
    """Run cases to the end, or to the one that ends the process; returns where to go on then."""
    command = [sys.executable, "-m", "tests.integration.every_method.worker", backend, mode, str(first), *only]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment(), cwd=REPOSITORY
    )
    running: tuple[int, str] | None = None
    try:
        for message in _messages(process):
            if "starts" in message:
                running = (message["number"], message["starts"])
            else:
                running = None
                yield Finding(message["ends"], message["verdict"], message["found"] or "")
        ended = _end(process)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(20)
        assert process.stdout is not None
        process.stdout.close()
    if running is None:
        assert ended == 0, f"the sweep's process ended with {ended} between two cases"
        return None
    yield Finding(running[1], DIES, _how(ended))
    return running[0] + 1


def _messages(process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    """What the process says, until it says nothing more or nothing for too long."""
    assert process.stdout is not None
    waiting, limit_s = b"", START_LIMIT_S
    while select.select([process.stdout], [], [], limit_s)[0]:
        chunk = os.read(process.stdout.fileno(), 1 << 16)
        if not chunk:
            return
        *lines, waiting = (waiting + chunk).split(b"\n")
        for line in lines:
            if line.startswith(MARK.encode()):
                limit_s = CASE_LIMIT_S
                yield json.loads(line.removeprefix(MARK.encode()))


def _end(process: subprocess.Popen[bytes]) -> int | None:
    """The exit status; None for one that had to be killed."""
    try:
        return process.wait(10)
    except subprocess.TimeoutExpired:
        return None


def _how(ended: int | None) -> str:
    if ended is None:
        return f"said nothing for {CASE_LIMIT_S:.0f} s"
    return f"the process ended by {signal.Signals(-ended).name}" if ended < 0 else f"the process exited with {ended}"
