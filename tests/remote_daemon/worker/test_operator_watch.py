"""How long an operator runs is seen from outside, and what runs again and again is not taken for one that hangs."""

from __future__ import annotations

import threading

import pytest

from dynamo_genie.remote_daemon.channel.program_note import NBYTES, ProgramNote, make_page
from dynamo_genie.remote_daemon.engines.eager import PROGRAM_FILE_NAME
from dynamo_genie.remote_daemon.worker import operator_watch
from dynamo_genie.remote_daemon.worker.operator_watch import OperatorWatch


class Executing:
    """A thread that is inside an operator until it is let go on, as an executor's is inside a session's `execute`."""

    def __init__(self) -> None:
        self.commands = 0
        self.now = 0.0
        self._steps = [threading.Semaphore(0), threading.Semaphore(0)]
        self._inside = threading.Semaphore(0)
        names: dict[str, object] = {"wait": self._wait}
        source = "def run(inputs):\n () = inputs\n inputs.clear()\n wait(0)\n wait(1)\n"
        exec(compile(source, PROGRAM_FILE_NAME, "exec"), names)
        self._run = names["run"]
        self._thread = threading.Thread(target=self.execute, daemon=True)

    def _wait(self, number: int) -> None:
        self._inside.release()
        assert self._steps[number].acquire(timeout=30)

    def execute(self) -> None:
        assert callable(self._run)
        for _ in range(2):
            self.commands += 1
            self._run([])

    def start(self) -> OperatorWatch:
        self._thread.start()
        self.wait_inside()
        assert self._thread.ident is not None
        return OperatorWatch(self._thread.ident, lambda: self.commands, clock=lambda: self.now)

    def wait_inside(self) -> None:
        assert self._inside.acquire(timeout=30)

    def finish(self, number: int) -> None:
        self._steps[number].release()

    def join(self) -> None:
        self._thread.join(30)


def test_the_age_of_an_operator_counts_from_the_first_look_and_begins_anew_with_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    executing = Executing()
    monkeypatch.setattr(operator_watch, "_WORK", (Executing.execute.__code__,))
    watch = executing.start()

    def look(now: float) -> tuple[float, str]:
        executing.now = now
        return watch.look()

    assert look(10.0) == (0.0, "operator 0 of a program")
    assert look(13.0) == (3.0, "operator 0 of a program")
    executing.finish(0)
    executing.wait_inside()
    assert look(20.0) == (0.0, "operator 1 of a program")
    assert look(21.0) == (1.0, "operator 1 of a program")
    executing.finish(1)
    executing.wait_inside()
    assert look(30.0) == (0.0, "operator 0 of a program")
    executing.finish(0)
    executing.wait_inside()
    executing.finish(1)
    executing.join()
    assert look(40.0) == (0.0, "")


def test_the_same_operator_of_the_next_command_is_another_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    executing = Executing()
    monkeypatch.setattr(operator_watch, "_WORK", (Executing.execute.__code__,))
    watch = executing.start()
    assert watch.look()[0] == 0.0
    executing.finish(0)
    executing.wait_inside()
    executing.finish(1)
    executing.wait_inside()
    executing.now = 5.0
    assert watch.look() == (0.0, "operator 0 of a program")
    executing.finish(0)
    executing.finish(1)
    executing.join()


def test_a_note_is_read_by_whoever_shares_its_page() -> None:
    page = make_page()
    written, read = ProgramNote(page), ProgramNote(page)
    assert (read.last, read.running) == (b"", False)
    digest = bytes(range(32))
    written.begin(digest)
    assert (read.last, read.running) == (digest, True)
    written.end()
    assert (read.last, read.running) == (digest, False)
    written.close()
    assert read.last == digest
    assert NBYTES >= 33
