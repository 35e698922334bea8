"""Workers that stand still are replaced, busy ones never, and a program that ends three of them is not run again."""

from __future__ import annotations

from collections.abc import Callable

from dynamo_genie.remote_daemon.supervisor.events import (
    Action,
    ClientSaid,
    DrainRequested,
    KeysListed,
    KillWorker,
    StartWorker,
    TellClient,
    TellWorker,
    Tick,
    WorkerExited,
    WorkerId,
    WorkerSaid,
    WorkerStarted,
)
from dynamo_genie.remote_daemon.supervisor.quarantine import DEATHS, WITHIN_S, Quarantine
from dynamo_genie.remote_daemon.supervisor.state_machine import REVOKED, Rules, SupervisorStateMachine
from dynamo_genie.remote_daemon.supervisor.watchdog import MAX_UNANSWERED_WORKING
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.version import PROTOCOLS

READY = m.WorkerReady("tcp://h:1", "tcp://h:2", m.DeviceInfo("cpu", "cpu", 1 << 30, "2.13"))
HELLO = m.Hello(1, PROTOCOLS, "tester")
PING = m.WorkerPing()
PROGRAM, OTHER = b"p" * 32, b"o" * 32


def watched(
    *, keyed: bool = False, operator_timeout_s: float = 0.0, processor_time_s: Callable[[int], float] = lambda pid: 0.0
) -> SupervisorStateMachine:
    """Return a supervisor with one client, whose worker is ready."""
    rules = Rules(
        "tcp://h:7", 42, keyed, lease_s=1000.0, operator_timeout_s=operator_timeout_s, processor_time_s=processor_time_s
    )
    daemon = SupervisorStateMachine(rules, now=0.0)
    daemon.start(0.0)
    daemon.handle(ClientSaid(b"p", "alice" if keyed else "", HELLO), 0.0)
    daemon.handle(WorkerStarted(WorkerId(1), 1234), 0.0)
    daemon.handle(WorkerSaid(WorkerId(1), READY), 0.0)
    return daemon


def ended(actions: list[Action]) -> m.SessionEnded:
    (message,) = [action.message for action in actions if isinstance(action, TellClient)]
    assert isinstance(message, m.SessionEnded)
    return message


def test_a_worker_is_asked_every_second_while_it_answers() -> None:
    daemon = watched()
    for second in range(100):
        assert daemon.handle(Tick(), float(second)) == [TellWorker(WorkerId(1), PING)]
        assert daemon.handle(Tick(), second + 0.5) == []
        assert daemon.next_deadline() == second + 1.0
        assert daemon.handle(WorkerSaid(WorkerId(1), m.WorkerPong(0.0, "")), second + 0.6) == []


def test_a_worker_that_stands_still_is_replaced_within_five_seconds_and_its_sessions_are_told_why() -> None:
    daemon = watched()
    asked = [daemon.handle(Tick(), float(second)) for second in range(4)]
    assert asked == [[TellWorker(WorkerId(1), PING)]] * 4
    assert daemon.handle(Tick(), 4.0) == [KillWorker(WorkerId(1))]
    assert daemon.handle(Tick(), 5.0) == []
    actions = daemon.handle(WorkerExited(WorkerId(1), "killed by SIGKILL"), 5.0)
    assert "it has not answered for 4 s and done nothing meanwhile" in ended(actions).message
    assert actions[-1] == StartWorker(WorkerId(2), "", 0)


def test_a_worker_that_works_may_be_silent_for_longer_but_not_for_ever() -> None:
    used = iter(range(1000))
    daemon = watched(processor_time_s=lambda pid: next(used) / 20)
    for second in range(MAX_UNANSWERED_WORKING):
        assert daemon.handle(Tick(), float(second)) == [TellWorker(WorkerId(1), PING)]
    assert daemon.handle(Tick(), float(MAX_UNANSWERED_WORKING)) == [KillWorker(WorkerId(1))]


def test_a_supervisor_that_was_stopped_itself_blames_nobody() -> None:
    daemon = watched()
    daemon.handle(Tick(), 0.0)
    assert daemon.handle(Tick(), 600.0) == [TellWorker(WorkerId(1), PING)]


def test_without_an_operator_timeout_an_operator_may_run_for_ever() -> None:
    assert watched().handle(WorkerSaid(WorkerId(1), m.WorkerPong(1e6, "operator 3 of a program")), 1.0) == []


def test_an_operator_that_runs_longer_than_the_timeout_costs_its_worker_and_is_named() -> None:
    daemon = watched(operator_timeout_s=10.0)
    assert daemon.handle(WorkerSaid(WorkerId(1), m.WorkerPong(10.0, "operator 3 of a program")), 1.0) == []
    late = m.WorkerPong(10.5, "operator 3 of a program")
    assert daemon.handle(WorkerSaid(WorkerId(1), late), 2.0) == [KillWorker(WorkerId(1))]
    message = ended(daemon.handle(WorkerExited(WorkerId(1), "killed by SIGKILL"), 2.1)).message
    assert "operator 3 of a program ran for 10.5 s, longer than --operator-timeout 10 allows" in message


def test_nobody_is_asked_while_the_daemon_drains() -> None:
    daemon = watched()
    daemon.handle(DrainRequested(), 0.5)
    assert daemon.handle(Tick(), 1.0) == []
    assert daemon.next_deadline() == 10.5


def test_a_program_that_ends_three_workers_is_refused_by_the_next_one() -> None:
    daemon = watched()
    for number in range(1, DEATHS + 1):
        actions = daemon.handle(
            WorkerExited(WorkerId(number), "killed by SIGFPE", PROGRAM, running=True), 10.0 * number
        )
        actions += daemon.handle(Tick(), 10.0 * number + 5)
        expected = (PROGRAM,) if number == DEATHS else ()
        assert actions[-1] == StartWorker(WorkerId(number + 1), "", 0, expected)
        daemon.handle(WorkerSaid(WorkerId(number + 1), READY), 10.0 * number + 6)


def test_the_session_hears_which_program_its_worker_ran() -> None:
    daemon = watched()
    message = ended(daemon.handle(WorkerExited(WorkerId(1), "killed by SIGFPE", PROGRAM, running=True), 1.0)).message
    assert f"killed by SIGFPE while it ran program {PROGRAM.hex()[:12]}" in message


def test_a_worker_that_dies_between_programs_blames_none_but_one_that_said_why_it_ends_does() -> None:
    daemon = watched()
    assert "program" not in ended(daemon.handle(WorkerExited(WorkerId(1), "exit code 1", PROGRAM), 1.0)).message
    daemon = watched()
    daemon.handle(WorkerSaid(WorkerId(1), m.WorkerEnding("the device is lost")), 1.0)
    message = ended(daemon.handle(WorkerExited(WorkerId(1), "exit code 1", PROGRAM), 1.0)).message
    assert f"the device is lost while it ran program {PROGRAM.hex()[:12]}" in message


def test_quarantine_is_a_tenants_own_and_deaths_long_ago_do_not_count() -> None:
    quarantine = Quarantine()
    assert [quarantine.died("a", PROGRAM, 1.0) for _ in range(DEATHS)] == [False, False, True]
    assert not quarantine.died("a", OTHER, 1.0)
    assert not quarantine.died("b", PROGRAM, 1.0)
    assert (quarantine.of("a"), quarantine.of("b")) == ((PROGRAM,), ())
    rare = Quarantine()
    assert not any(rare.died("a", PROGRAM, time * WITHIN_S / 2) for time in range(0, 50, 2))


def test_a_revoked_key_costs_its_client_everything_and_others_nothing() -> None:
    daemon = watched(keyed=True)
    daemon.handle(ClientSaid(b"q", "bob", HELLO), 0.0)
    daemon.handle(WorkerSaid(WorkerId(2), READY), 0.0)
    assert daemon.handle(KeysListed({"alice", "bob"}), 1.0) == []
    told, killed = daemon.handle(KeysListed({"bob"}), 2.0)
    assert isinstance(told, TellClient)
    assert isinstance(told.message, m.SessionEnded)
    assert (told.peer, told.message.code, told.message.message) == (b"p", "AuthenticationError", REVOKED)
    assert killed == KillWorker(WorkerId(1))
    assert daemon.handle(WorkerExited(WorkerId(1), "killed by SIGKILL"), 2.1) == []
    assert daemon.handle(Tick(), 50.0) == [TellWorker(WorkerId(2), PING)]
