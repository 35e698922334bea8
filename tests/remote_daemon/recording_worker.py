"""A daemon whose workers record every command they run: `python -m ... daemon ARGUMENTS`, or the worker.

The record is lines of the log, which a worker may write to whatever it has given up, and which outlive it.
"""

from __future__ import annotations

import base64
import itertools
import os
import sys
from collections.abc import Iterator
from typing import Any

import msgspec

from tests.remote_daemon.own_workers import run_daemon_with

NAME = "tests.remote_daemon.recording_worker"
MARK = "RAN "


def run_worker() -> None:
    """Run a worker as the supervisor starts it."""
    from dynamo_genie.remote_daemon.worker import attached_sessions, worker
    from tests.wire_history import Ran, Recording

    numbers = itertools.count()

    def tell(ran: Ran) -> None:
        os.write(2, f"{MARK}{base64.b64encode(msgspec.msgpack.encode(ran)).decode()}\n".encode())

    class RecordedStream(attached_sessions.CommandStream[Any]):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            Recording(self, tell, f"{os.getpid()}.{next(numbers)}")

    attached_sessions.CommandStream = RecordedStream  # type: ignore[misc]
    worker.main()


def read_record(log: str) -> Iterator[Any]:
    """Yield what workers ran, as `Ran`, in the order in which they did."""
    from tests.wire_history import Ran

    decode = msgspec.msgpack.Decoder(Ran).decode
    return (decode(base64.b64decode(line[len(MARK) :])) for line in log.splitlines() if line.startswith(MARK))


if __name__ == "__main__":
    run_daemon_with(NAME) if sys.argv[1:2] == ["daemon"] else run_worker()
