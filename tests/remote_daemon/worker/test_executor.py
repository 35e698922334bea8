"""The executor's idle moment: what can wait is done when no message waits."""

from __future__ import annotations

from typing import TypeAlias

import pytest
import zmq

from dynamo_genie.remote_daemon.channel.message_reader import Received
from dynamo_genie.remote_daemon.channel.wakeup import Wakeup
from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget
from dynamo_genie.remote_daemon.transfer.mailboxes import SessionMailboxes
from dynamo_genie.remote_daemon.worker import executor
from dynamo_genie.remote_daemon.worker.executor import Executor
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
        self.events: list[Event] = []
        self.wakes = 0
        self.rcvtimeo = 0
        wakeup = Wakeup()
        self.mailboxes = SessionMailboxes(MemoryBudget(1 << 20), wakeup.set)
        worker = WorkerInProcess()
        monkeypatch.setattr(executor, "trim_host_memory", lambda: self.happened.append("trim"))
        monkeypatch.setattr(zmq, "Poller", lambda: self)
        self.executor = Executor(
            self,  # type: ignore[arg-type]
            self,
            self.mailboxes,
            lambda mailbox: WorkerInProcess(state=worker.state).session,
            wakeup,
            lambda: None,
        )
        for session in (ONE, OTHER):
            self.mailboxes.admit(m.AdmitSession(session, TOKEN, "test", ""))

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

    def send(self, data: bytes, flags: int = 0) -> None:
        """Take an answer."""

    def fileno(self) -> int:
        return -1

    def register(self, socket: object, flags: int) -> None:
        """Be a poller too."""

    def poll(self, timeout_ms: int) -> list[int]:
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
