"""The executor: whose commands run when, what it does when none wait, and what a connection that breaks leaves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TypeAlias

import pytest
import zmq

from dynamo_genie.remote_daemon.channel import inbox
from dynamo_genie.remote_daemon.channel.message_reader import Received
from dynamo_genie.remote_daemon.channel.wakeup import Wakeup
from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget
from dynamo_genie.remote_daemon.transfer.mailboxes import SessionMailbox, SessionMailboxes
from dynamo_genie.remote_daemon.worker import executor
from dynamo_genie.remote_daemon.worker.attached_sessions import AttachedSessions
from dynamo_genie.remote_daemon.worker.executor import Executor
from dynamo_genie.remote_daemon.worker.sessions import WorkerSession
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m
from tests.remote_daemon.worker_in_process import WorkerInProcess

ONE, OTHER = b"1" * 16, b"2" * 16
TOKEN = b"t" * 32


Event: TypeAlias = "tuple[bytes, m.Attach | m.Batch] | bytes | None"
"""A message and the connection that it came on, the number of a session that ends, or silence."""


class Bench:
    """An executor between a socket that brings `events`, and sessions; `happened` is what it saw and did."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.happened: list[str] = []
        self.ran: list[str] = []
        self.answers: list[tuple[bytes, m.WorkerToClient]] = []
        self.events: list[Event] = []
        self.now = 100.0
        self.seconds: dict[bytes, float] = {}
        self.wakes = 0
        self.waits_ms: list[int] = []
        self.comes_while_waiting: list[Event] = []
        self.launched_s = 0.0
        self.rcvtimeo = 0
        wakeup = Wakeup()
        self.mailboxes = SessionMailboxes(MemoryBudget(1 << 20), wakeup.set)
        self._state = WorkerInProcess().state
        monkeypatch.setattr(executor, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(executor, "trim_host_memory", lambda: self.happened.append("trim"))
        monkeypatch.setattr(zmq, "Poller", lambda: self)
        self.executor = Executor(
            self,  # type: ignore[arg-type]
            self,
            AttachedSessions(self.mailboxes, self._open),
            wakeup,
            lambda: None,
        )
        for session in (ONE, OTHER):
            self.mailboxes.admit(m.AdmitSession(session, TOKEN, "test", ""))

    def _open(self, mailbox: SessionMailbox) -> WorkerSession:
        """Return a session whose calls and syncs take as long as `seconds` says."""
        session = WorkerInProcess(state=self._state).session

        def run(number: int) -> None:
            self.now += self.seconds.get(mailbox.session, 0.0)
            self.ran.append(f"{mailbox.session[:1].decode()}: {number}")

        def sync(command: m.Sync) -> m.Done:
            run(command.request_id)
            return m.Done(command.request_id)

        session.commands = {**session.commands, m.Sync: sync, m.Call: lambda command: run(command.program)}
        return session

    def receive(self, flags: int = 0, /) -> Received:
        """Bring the next message; nothing comes in a silence, and the end of a session comes from another thread."""
        what = self.events.pop(0) if self.events else self.executor.drain()
        if isinstance(what, bytes):
            self.mailboxes.drop(what)
            self.executor.wake()
            what = self.events.pop(0)
        if what is None:
            self.happened.append("silence")
            raise zmq.Again
        self.happened.append("message")
        return Received(what[0], zmq.Frame(codec.encode(what[1])), 0)

    def readable(self) -> bool:
        """Whether another message has come with the last one: up to a silence or the end they have."""
        return bool(self.events) and isinstance(self.events[0], tuple)

    def send(self, data: bytes, flags: int = 0) -> None:
        """Take an answer."""
        if flags & zmq.SNDMORE:
            self._to = data
        else:
            self.answers.append((self._to, codec.worker_to_client(data)))

    def fileno(self) -> int:
        return -1

    def register(self, socket: object, flags: int) -> None:
        """Be a poller too."""

    def poll(self, timeout_ms: int) -> list[int]:
        if self.executor._turns.ready_members:
            self.waits_ms.append(timeout_ms)
            self.now += timeout_ms / 1000
            self.events[:0] = self.comes_while_waiting
            self.comes_while_waiting = []
        self.wakes -= 1
        return [-1] if self.wakes >= 0 else []

    def serve(self, *events: Event) -> list[str]:
        self.events = list(events)
        self.executor.serve()
        return self.happened


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


ATTACH = (b"one", m.Attach(1, ONE, TOKEN))
ATTACH_OTHER = (b"other", m.Attach(1, OTHER, TOKEN))


def batch(sequence: int, *commands: m.Command) -> Event:
    return b"other", m.Batch(sequence, commands)


def test_memory_of_an_ended_session_is_returned_when_no_message_waits_and_once(bench: Bench) -> None:
    happened = bench.serve(ATTACH, ATTACH_OTHER, ONE, batch(1, m.Sync(1)), batch(2, m.Sync(2)), None, None)
    assert happened == ["message"] * 4 + ["silence", "trim", "silence", "silence"]


def test_silence_alone_returns_nothing(bench: Bench) -> None:
    assert "trim" not in bench.serve(ATTACH, None, None)


def test_an_executor_is_idle_while_a_session_waits_unless_it_is_woken(bench: Bench) -> None:
    waits = batch(1, m.ReceiveTensor(5, 3, 1, 60.0))
    bench.wakes = 2
    happened = bench.serve(ATTACH, ATTACH_OTHER, waits, ONE, None, None, None)
    assert happened == ["message"] * 3 + ["silence"] * 3 + ["trim", "silence"]


# --- turns ------------------------------------------------------------------------------------------------


def syncs(peer: bytes, sequence: int, *numbers: int) -> Event:
    return peer, m.Batch(sequence, tuple(m.Sync(number) for number in numbers))


def calls(peer: bytes, sequence: int, *numbers: int) -> Event:
    return peer, m.Batch(sequence, tuple(m.Call(number, 0, (), ()) for number in numbers))


def test_a_batch_of_long_calls_goes_on_when_others_have_used_as_much(bench: Bench) -> None:
    bench.seconds = {ONE: 0.1, OTHER: 0.04}
    long = calls(b"one", 1, 1, 2, 3)
    short = [syncs(b"other", number, number) for number in range(1, 7)]
    bench.serve(ATTACH, ATTACH_OTHER, long, *short)
    assert bench.ran == ["1: 1", "2: 1", "2: 2", "2: 3", "1: 2", "2: 4", "2: 5", "1: 3", "2: 6"]


def test_short_calls_of_a_batch_run_in_one_turn(bench: Bench) -> None:
    bench.serve(ATTACH, ATTACH_OTHER, calls(b"one", 1, 1, 2, 3), calls(b"other", 1, 4, 5))
    assert bench.ran == ["1: 1", "1: 2", "1: 3", "2: 4", "2: 5"]


def test_who_used_less_is_waited_for_a_little_before_a_long_command(bench: Bench) -> None:
    bench.seconds = {ONE: 0.1, OTHER: 0.001}
    bench.comes_while_waiting = [syncs(b"other", 2, 5)]
    bench.serve(ATTACH, ATTACH_OTHER, calls(b"one", 1, 1, 2), syncs(b"other", 1, 4))
    assert bench.ran == ["1: 1", "2: 4", "2: 5", "1: 2"]
    assert bench.waits_ms == [13, 11], "a part of what it is behind, which is less the second time, when nobody comes"


def test_nobody_is_waited_for_without_others(bench: Bench) -> None:
    bench.seconds = {ONE: 0.1}
    bench.serve(ATTACH, calls(b"one", 1, 1, 2, 3), calls(b"one", 2, 4))
    assert bench.ran == ["1: 1", "1: 2", "1: 3", "1: 4"]
    assert bench.waits_ms == []


def test_the_time_that_a_launch_takes_afterwards_is_of_who_launched(bench: Bench) -> None:
    bench.seconds = {ONE: 0.001, OTHER: 0.001}
    bench.launched_s = 0.02

    def wait() -> None:
        bench.now += bench.launched_s
        bench.launched_s = 0.0

    bench.executor._synchronize = wait
    rest = [syncs(b"one" if number % 2 else b"other", (number + 1) // 2, number) for number in range(1, 20)]
    bench.serve(ATTACH, ATTACH_OTHER, *rest)
    assert bench.ran[:2] == ["1: 1", "2: 2"]
    assert all(line.startswith("2") for line in bench.ran[2:10])


def test_too_much_that_waits_ends_its_session_and_no_other(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "MAX_WAITING_BATCHES", 2)
    bench.seconds = {OTHER: 0.1}
    many = [syncs(b"one", number, number) for number in range(1, 5)]
    bench.serve(ATTACH, ATTACH_OTHER, syncs(b"other", 1, 8, 9), *many, *many, syncs(b"one", 9, 9))
    failures = [answer for peer, answer in bench.answers if peer == b"one" and isinstance(answer, m.Failed)]
    assert failures
    assert all("of commands wait to run" in failure.error.message for failure in failures)
    assert [line for line in bench.ran if line.startswith("2")] == ["2: 8", "2: 9"]


def test_what_waits_when_its_connection_breaks_is_dropped_and_runs_once_when_it_comes_again(bench: Bench) -> None:
    bench.seconds = {ONE: 0.1, OTHER: 0.1}
    before = [syncs(b"one", number, number) for number in (1, 2, 3)]
    again = (b"one again", m.Attach(9, ONE, TOKEN))
    after = [syncs(b"one again", number, number) for number in (1, 2, 3)]
    bench.serve(ATTACH, ATTACH_OTHER, syncs(b"other", 1, 7, 8, 9), *before, again, *after)
    assert [line for line in bench.ran if line.startswith("1")] == ["1: 1", "1: 2", "1: 3"]
    heard = [answer for peer, answer in bench.answers if peer == b"one again"]
    assert heard == [m.Attached(9, 0), m.Done(1), m.Done(2), m.Done(3)]
