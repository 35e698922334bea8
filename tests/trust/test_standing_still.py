"""A process that gets no processor for a while, on a machine with too much to do, loses no session over that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.integration.real_daemon import REPOSITORY, children_of, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

PROGRAM = """if True:
    import sys, torch, dynamo_genie
    from dynamo_genie.backend import genie
    count = torch.compile(lambda x: x.add_(1), backend=genie)
    zeros = torch.compile(lambda x: x * 0, backend=genie)
    with torch.no_grad():
        total = zeros(torch.ones(2))
        for line in sys.stdin:
            count(total)
            print(*total.tolist(), dynamo_genie.stats()["total"]["recoveries"], flush=True)
"""


class Program:
    """A program with an embedded daemon, which counts when it is told to."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
            cwd=REPOSITORY,
        )
        self.counted = 0

    def count(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("count\n")
        self.process.stdin.flush()
        self.counted += 1
        assert self.process.stdout.readline() == f"{self.counted:.1f} {self.counted:.1f} 0\n"

    def processes(self, which: str) -> list[int]:
        """Return the client, its supervisor, or both with the worker."""
        [supervisor] = children_of(self.process.pid)
        named = {"client": [self.process.pid], "supervisor": [supervisor]}
        return named.get(which) or [self.process.pid, supervisor, *children_of(supervisor)]


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    program = Program()
    program.count()
    yield program
    program.process.kill()
    program.process.wait()


@pytest.mark.parametrize(("which", "seconds"), [("client", 8.0), ("supervisor", 5.0), ("all", 8.0)])
def test_a_process_that_stood_still_goes_on_with_its_session(program: Program, which: str, seconds: float) -> None:
    pids = program.processes(which)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)  # this is what happens
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    program.count()
