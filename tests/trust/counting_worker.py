"""A daemon whose worker counts whose calls it ran: `python -m ... daemon ARGUMENTS`, or the worker.

On SIGUSR1 the record goes to the log as one line of JSON: sessions, numbered in the order in which they were opened.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from typing import Any

from tests.integration.real_daemon import RealDaemon, eventually
from tests.remote_daemon.own_workers import run_daemon_with

NAME = "tests.trust.counting_worker"
MARK = "CALLS "


class CountingDaemon(RealDaemon):
    """A daemon with such a worker."""

    program = ("-m", NAME)

    def record(self, worker: int) -> list[int]:
        """Return whose calls this worker ran so far."""
        before = self._lines()
        os.kill(worker, signal.SIGUSR1)
        assert eventually(lambda: len(self._lines()) > len(before))
        return list(json.loads(self._lines()[-1]))

    def _lines(self) -> list[str]:
        complete = self.log().splitlines(keepends=True)
        return [line.removeprefix(MARK) for line in complete if line.startswith(MARK) and line.endswith("\n")]


def main() -> None:
    from dynamo_genie.remote_daemon.worker import worker
    from dynamo_genie.remote_daemon.worker.sessions import WorkerSession
    from dynamo_genie.runtime.wire import messages as m

    ran: list[int] = []
    numbers = itertools.count()
    opened = WorkerSession.__init__

    def init(session: WorkerSession, *arguments: Any) -> None:
        opened(session, *arguments)
        number, call = next(numbers), session.commands[m.Call]

        def recorded(command: m.Call) -> Any:
            ran.append(number)
            return call(command)

        session.commands = {**session.commands, m.Call: recorded}

    WorkerSession.__init__ = init  # type: ignore[method-assign]
    signal.signal(signal.SIGUSR1, lambda *_: os.write(2, f"{MARK}{json.dumps(ran)}\n".encode()))
    worker.main()


if __name__ == "__main__":
    run_daemon_with(NAME) if sys.argv[1:2] == ["daemon"] else main()
