"""A client that works until it is asked what came of it: `-m tests.integration.working_client ENDPOINT KEY_FILE`.

It writes in place, multiplies matrices and sends large tensors there and back, each compared with what plain torch
computes here. Each line that it reads asks for what it did since the last one: a line of JSON.
"""

from __future__ import annotations

import select
import sys
import time

import msgspec
import torch
from torch import Tensor

import dynamo_genie
from dynamo_genie.backend import genie
from dynamo_genie.connections.connections import CONNECTIONS

PAUSE_S = 0.02
"""Between two rounds, so that several of these fit on a machine."""

EVERY = 10
"""So often a round moves a large tensor, by the bulk connection."""

LARGE = 1 << 19


class Report(msgspec.Struct):
    """What a client did since its last report.

    Attributes:
        rounds: How often it computed something and read it.
        wrong: What was not equal to what it should have been.
        answers: When it had an answer, by the clock that all processes of a machine share.
        sessions: How many sessions it has had since it began.
        reconnects, recoveries: How often a connection and a worker were replaced since it began.
    """

    rounds: int = 0
    wrong: list[str] = msgspec.field(default_factory=list)
    answers: list[float] = msgspec.field(default_factory=list)
    sessions: int = 0
    reconnects: int = 0
    recoveries: int = 0


class Work:
    """One client's work."""

    def __init__(self, endpoint: str, key_file: str) -> None:
        options = {"daemons": [endpoint], "key_file": key_file}
        self._zeros = torch.compile(lambda x: x * 0, backend=genie, options=options)
        self._count = torch.compile(lambda x: x.add_(1), backend=genie, options=options)
        self._product = torch.compile(torch.mm, backend=genie, options=options)
        self._double = torch.compile(lambda x: x + x, backend=genie, options=options)
        self._total = self._zeros(torch.ones(3))
        self._done = 0
        self._sessions: list[object] = []
        self.report = Report()

    def round(self) -> None:
        """Compute and read, now in one way, now in another."""
        self._count(self._total)
        self._done += 1
        self._expect("total", self._total, torch.full((3,), float(self._done)))
        generator = torch.Generator().manual_seed(self._done)
        a, b = torch.randn(2, 32, 32, generator=generator)
        self._expect("product", self._product(a, b), a @ b)
        if self._done % EVERY == 0:
            x = torch.randn(LARGE, generator=generator)
            self._expect("double", self._double(x), x + x)
        self.report.rounds += 1
        session = CONNECTIONS.all()[0].session
        if not any(session is each for each in self._sessions):
            self._sessions.append(session)

    def _expect(self, what: str, found: Tensor, expected: Tensor) -> None:
        if not torch.equal(dynamo_genie.to_local(found), expected):
            self.report.wrong.append(f"{what} in round {self._done}")
        self.report.answers.append(time.monotonic())

    def take_report(self) -> Report:
        """Return what was done since this was called last."""
        total = dynamo_genie.stats()["total"]
        report, self.report = self.report, Report()
        report.sessions = len(self._sessions)
        report.reconnects, report.recoveries = total["reconnects"], total["recoveries"]
        return report


def main(endpoint: str, key_file: str) -> None:
    """Work, and report when asked, until the input ends."""
    torch.set_num_threads(1)
    with torch.no_grad():
        work = Work(endpoint, key_file)
        for _ in range(EVERY):
            work.round()
        say(work.take_report())
        while True:
            if select.select([sys.stdin], [], [], PAUSE_S)[0]:
                if not sys.stdin.readline():
                    return
                say(work.take_report())
            work.round()


def say(report: Report) -> None:
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
