"""A session waits at one command, in order and for so long; the executor is never asked to."""

from __future__ import annotations

import itertools
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_genie.errors import SessionLost
from dynamo_genie.remote_daemon.channel.answer_nbytes import ANSWER_NBYTES
from dynamo_genie.remote_daemon.memory.memory_budget import FREE_OVERHEAD_NBYTES, MemoryBudget
from dynamo_genie.remote_daemon.worker import command_stream
from dynamo_genie.remote_daemon.worker.command_stream import CommandStream, NotYet
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.limits import ACKNOWLEDGE_BATCHES, ACKNOWLEDGE_NBYTES


class Commands:
    """Runs `Sync` at once; `ReceiveTensor` when its transfer is there, or overdue."""

    def __init__(self) -> None:
        self.there: set[int] = set()
        self.ran: list[str] = []
        self.news: m.LateFailures | None = None

    def execute(self, command: m.Command, now: float, *, overdue: bool) -> command_stream.Outcome:
        if isinstance(command, m.ReceiveTensor):
            if overdue:
                self.ran.append(f"overdue {command.transfer}")
                return None
            if command.transfer not in self.there:
                return NotYet(command.timeout_s)
            self.ran.append(f"received {command.transfer}")
            return None
        if isinstance(command, m.Call):
            self.ran.append(f"call {command.program}")
            return None
        assert isinstance(command, m.Sync)
        self.ran.append(f"sync {command.request_id}")
        return m.Done(command.request_id)

    def cancel(self, command: m.Command, now: float, *, overdue: bool) -> command_stream.Outcome:
        if isinstance(command, m.Call):
            self.ran.append(f"cancelled {command.program}")
            return None
        return self.execute(command, now, overdue=overdue)

    def take_news(self) -> m.WorkerToClient | None:
        news, self.news = self.news, None
        return news

    def close(self) -> None:
        self.ran.append("closed")


Stream: TypeAlias = CommandStream[Commands]


def receive(transfer: int, timeout_s: float = 10.0) -> m.ReceiveTensor:
    return m.ReceiveTensor(transfer, 1, transfer, timeout_s)


def batch(sequence: int, *commands: m.Command) -> m.Batch:
    return m.Batch(sequence, commands)


@pytest.fixture
def commands() -> Commands:
    return Commands()


@pytest.fixture
def stream(commands: Commands) -> Stream:
    return CommandStream(commands)


def test_what_comes_before_the_wait_is_answered_at_once(stream: Stream, commands: Commands) -> None:
    assert stream.take(batch(1, m.Sync(1), receive(7), m.Sync(2)), 50, now=100.0) == [m.Done(1)]
    assert stream.due == 110.0
    assert stream.resume(now=101.0) == []
    commands.there.add(7)
    assert stream.resume(now=102.0) == [m.Done(2)]
    assert stream.due is None


def test_a_turn_ends_before_a_call_and_the_next_one_goes_on_there(stream: Stream, commands: Commands) -> None:
    over = iter([False, True, True])
    asked = batch(1, *(command for n in range(1, 6) for command in (m.Call(n, 0, (), ()), m.Sync(n))))
    assert stream.take(asked, 50, 0.0, lambda: next(over)) == [m.Done(1), m.Done(2)]
    assert stream.unfinished
    assert stream.due is None, "it waits for nothing but its turn"
    assert stream.attached(9) == [m.Attached(9, 1), m.Acknowledged(0), m.Done(1), m.Done(2)]
    assert stream.resume(0.0, lambda: next(over)) == [m.Done(3)]
    assert stream.resume(0.0) == [m.Done(4), m.Done(5)]
    assert not stream.unfinished
    assert stream.take(asked, 50, now=0.0) == [m.Done(number) for number in range(1, 6)]
    assert commands.ran == [f"{what} {number}" for number in range(1, 6) for what in ("call", "sync")]


def test_a_wait_ends_at_its_deadline_and_the_stream_goes_on(stream: Stream, commands: Commands) -> None:
    stream.take(batch(1, receive(7, 5.0), m.Sync(1), receive(8, 5.0), m.Sync(2)), 50, now=100.0)
    assert stream.resume(now=104.9) == []
    assert stream.resume(now=105.0) == [m.Done(1)]
    assert stream.due == 110.0, "the next wait has a time of its own"
    assert stream.resume(now=110.0) == [m.Done(2)]
    assert commands.ran == ["overdue 7", "sync 1", "overdue 8", "sync 2"]


def test_a_batch_that_comes_again_is_not_run_twice(stream: Stream, commands: Commands) -> None:
    first = batch(1, m.Sync(1), receive(7), m.Sync(2))
    stream.take(first, 50, now=0.0)
    commands.there.add(7)
    stream.resume(now=1.0)
    for _ in range(2):
        assert stream.take(first, 50, now=0.0) == [m.Done(1), m.Done(2)]
        assert stream.take(batch(2, m.Sync(3)), 50, now=0.0) == [m.Done(3)]
    assert commands.ran == ["sync 1", "received 7", "sync 2", "sync 3"]


def test_a_gap_is_told_and_what_follows_it_is_dropped_until_it_is_closed(stream: Stream, commands: Commands) -> None:
    assert stream.take(batch(2, m.Sync(2)), 50, now=0.0) == [m.Detached()]
    assert stream.attached(9) == [m.Attached(9, 0)]
    for sequence in (1, 2):
        assert stream.take(batch(sequence, m.Sync(sequence)), 50, now=0.0) == [m.Done(sequence)]
    assert commands.ran == ["sync 1", "sync 2"]


def test_answers_are_told_to_the_next_connection_until_they_are_heard(stream: Stream, commands: Commands) -> None:
    for sequence in (1, 2):
        stream.take(batch(sequence, m.Sync(sequence)), 50, now=0.0)
    stream.take(batch(3, m.Sync(3), receive(7), m.Sync(4)), 50, now=0.0)
    known: list[m.WorkerToClient] = [m.Attached(9, 3), m.Acknowledged(2)]
    assert stream.attached(9) == [*known, m.Done(1), m.Done(2), m.Done(3)]
    commands.there.add(7)
    stream.resume(now=1.0)
    stream.take(batch(4, m.Sync(5)), 50, now=0.0)
    stream.take(m.Batch(5, (m.Sync(6),), heard=3), 50, now=2.0)
    assert stream.attached(9) == [m.Attached(9, 5), m.Acknowledged(5), m.Done(5), m.Done(6)]


def test_a_client_that_hears_no_answers_is_given_up(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_stream, "MAX_UNHEARD_NBYTES", 3 * ANSWER_NBYTES)
    for sequence in (1, 2, 3):
        stream.take(batch(sequence, m.Sync(sequence)), 50, now=0.0)
    for sequence in (4, 5):
        with pytest.raises(SessionLost, match="has heard none"):
            stream.take(batch(sequence, m.Sync(sequence)), 50, now=0.0)


def test_what_ran_without_an_answer_is_acknowledged_now_and_then(stream: Stream) -> None:
    said = [stream.take(batch(sequence, receive(7, 0.0)), 50, now=0.0) for sequence in range(1, 2)]
    stream.resume(now=1.0)
    said += [stream.take(batch(sequence), 50, now=0.0) for sequence in range(2, 2 * ACKNOWLEDGE_BATCHES + 2)]
    assert [replies for replies in said if replies] == [
        [m.Acknowledged(ACKNOWLEDGE_BATCHES)],
        [m.Acknowledged(2 * ACKNOWLEDGE_BATCHES)],
    ]
    sequence = 2 * ACKNOWLEDGE_BATCHES + 2
    assert stream.take(batch(sequence), ACKNOWLEDGE_NBYTES, now=0.0) == [m.Acknowledged(sequence)]
    assert stream.take(batch(sequence + 1, m.Sync(1)), ACKNOWLEDGE_NBYTES, now=0.0) == [m.Done(1)], "that says so too"


def test_a_session_that_is_given_up_runs_nothing_more(stream: Stream, commands: Commands) -> None:
    stream.take(batch(1, receive(7), m.Sync(1)), 50, now=0.0)
    assert str(stream.give_up("too much")) == "too much"
    assert not stream.unfinished
    with pytest.raises(SessionLost, match="too much"):
        stream.take(batch(2, m.Sync(2)), 50, now=0.0)
    assert commands.ran == []


def test_answers_that_are_not_heard_count_and_those_that_are_heard_do_not() -> None:
    budget = MemoryBudget(FREE_OVERHEAD_NBYTES)
    commands = Commands()
    stream = CommandStream(commands, budget)
    stream.take(batch(1, m.Sync(1)), 50, now=0.0)
    assert budget.overhead == 0, "a small answer costs nothing worth counting"
    for sequence in range(2, 4):
        commands.news = m.LateFailures((m.ErrorInfo("IndexError", "x" * (100 << 10), "", 1, 0, "", 1, 1),))
        stream.take(batch(sequence, m.Sync(sequence)), 50, now=0.0)
    assert budget.overhead > 2 * 2 * (100 << 10)
    stream.take(m.Batch(4, (), heard=3), 50, now=0.0)
    assert budget.overhead == 0


def test_a_client_that_hears_nothing_loses_its_session_where_others_have_taken_the_memory() -> None:
    budget = MemoryBudget(0)
    budget.reserve_overhead(FREE_OVERHEAD_NBYTES, "handles of another session")
    commands = Commands()
    stream = CommandStream(commands, budget)
    commands.news = m.LateFailures((m.ErrorInfo("IndexError", "x" * (100 << 10), "", 1, 0, "", 1, 1),))
    with pytest.raises(SessionLost, match="answers that the client has not heard needs"):
        stream.take(batch(1, m.Sync(1)), 50, now=0.0)
    assert budget.overhead == FREE_OVERHEAD_NBYTES
    with pytest.raises(SessionLost):
        stream.take(batch(2, m.Sync(2)), 50, now=0.0)


def test_closing_forgets_what_waits_and_closes_the_session(stream: Stream, commands: Commands) -> None:
    stream.take(batch(1, receive(7), m.Sync(1)), 50, now=0.0)
    stream.close()
    assert stream.due is None
    assert stream.resume(now=20.0) == []
    assert commands.ran == ["closed"]


@given(
    batches=st.lists(st.lists(st.integers(0, 2), max_size=4), max_size=6),
    arrivals=st.lists(st.tuples(st.integers(0, 6), st.integers(1, 24)), max_size=30),
    every=st.integers(1, 5),
)
def test_replies_and_effects_come_in_order_whatever_arrives_and_whenever_turns_end(
    batches: list[list[int]], arrivals: list[tuple[int, int]], every: int
) -> None:
    commands = Commands()
    stream = CommandStream(commands)
    numbered, number = [], 0
    for kinds in batches:
        made: list[m.Command] = []
        for kind in kinds:
            number += 1
            made += [[receive(number)], [m.Sync(number)], [m.Call(number, 0, (), ()), m.Sync(number)]][kind]
        numbered.append(made)
    replies = []
    turns = itertools.count()
    for sequence, made in enumerate(numbered, 1):
        replies += stream.take(batch(sequence, *made), 50, 0.0, lambda: next(turns) % every == 0)
        for moment, transfer in arrivals:
            if moment == sequence:
                commands.there.add(transfer)
                replies += stream.resume(0.0, lambda: next(turns) % every == 0)
        commands.there.update(range(1, number + 1))
        while stream.unfinished:
            replies += stream.resume(0.0, lambda: next(turns) % every == 0)
    flat = [command for made in numbered for command in made]
    assert replies == [m.Done(c.request_id) for c in flat if isinstance(c, m.Sync)]
    names = {m.ReceiveTensor: "received", m.Sync: "sync", m.Call: "call"}
    assert [line.split()[0] for line in commands.ran] == [names[type(command)] for command in flat]
    assert list(dict.fromkeys(int(line.split()[1]) for line in commands.ran)) == list(range(1, number + 1))


def test_news_come_before_the_next_answer_and_are_repeated_with_it(stream: Stream, commands: Commands) -> None:
    news = m.LateFailures((m.ErrorInfo("IndexError", "", "", 1, 0, "", 1, 1),))
    commands.news = news
    assert stream.take(batch(1, receive(7)), 50, now=0.0) == []
    commands.there.add(7)
    assert stream.resume(1.0) == []
    asked = batch(2, m.Sync(1), m.Sync(2))
    for _ in range(2):
        assert stream.take(asked, 50, now=2.0) == [news, m.Done(1), m.Done(2)]


def test_calls_that_nobody_waits_for_are_cancelled_and_later_ones_run(stream: Stream, commands: Commands) -> None:
    stream.take(batch(1, receive(7)), 50, now=0.0)
    stream.cancelled = 2
    assert stream.unwanted
    commands.there.add(7)
    stream.resume(now=1.0)
    assert stream.take(batch(2, m.Call(5, 0, (), ()), m.Sync(1)), 50, now=0.0) == [m.Done(1)]
    assert not stream.unwanted
    assert stream.take(batch(3, m.Sync(2)), 50, now=1.0) == [m.Done(2)]
    assert commands.ran == ["received 7", "cancelled 5", "sync 1", "sync 2"]


def test_nothing_of_a_session_that_ended_runs(stream: Stream, commands: Commands) -> None:
    stream.take(batch(1, receive(7), m.Sync(1)), 50, now=0.0)
    stream.ended = True
    commands.there.add(7)
    assert stream.resume(now=1.0) == []
    assert commands.ran == []
