"""The killer kills one process at a time, and takes a kill for survived when a recovery was counted after it."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from dynamo_genie.bench.trust.killing import Killer
from dynamo_genie.runtime.recovery.recovered import Recovered


class Victims:
    """Processes that sleep, one after the other, and how many recoveries are said to have been."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[bytes]] = []
        self.recoveries = 0
        self.began = 0.0

    def find(self) -> int:
        self.started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        return self.started[-1].pid

    def recovered(self) -> tuple[int, Recovered | None]:
        return self.recoveries, Recovered(self.began, 0.25, 0.5, 0.125) if self.recoveries else None


@contextmanager
def victims() -> Iterator[Victims]:
    victims = Victims()
    try:
        yield victims
    finally:
        for process in victims.started:
            process.kill()
            process.wait(10)


def test_each_kill_waits_until_work_has_gone_on_after_the_last() -> None:
    with victims() as v:
        killer = Killer(v.find, v.recovered, random.Random(0))
        killer.progressed()
        killer.strike(0.01)
        killer.strike(0.01)
        assert v.started[0].wait(10) == -signal.SIGKILL
        killer.progressed()  # read before the session knew
        assert (killer.kills, killer.deaths, killer.waiting) == (1, [], True)
        v.recoveries, v.began = 1, killer._killed_at + 0.5
        killer.progressed()
        (death,) = killer.deaths
        assert (death.noticed_s, death.recovered.replayed_s) == (0.5, 0.125)
        assert death.to_next_s > 0
        assert not killer.waiting
        assert [process.poll() for process in v.started[1:]] == [None]
        killer.strike(0.0)
        assert v.started[1].wait(10) == -signal.SIGKILL


def test_no_kill_comes_before_the_pause_is_over() -> None:
    with victims() as v:
        killer = Killer(v.find, v.recovered, random.Random(0), pause_s=3600)
        killer.strike(0.0)
        v.started[0].wait(10)
        v.recoveries = 1
        killer.progressed()
        killer.strike(0.0)
        assert (killer.kills, killer.waiting) == (1, False)
