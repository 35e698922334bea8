"""What the supervisor decides, without a socket, a process or a clock."""

from __future__ import annotations

from dynamo_genie.options import Options
from dynamo_genie.remote_daemon.supervisor.events import (
    Action,
    AnnounceReady,
    ClientSaid,
    DrainRequested,
    Exit,
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
from dynamo_genie.remote_daemon.supervisor.quarantine import DEATHS
from dynamo_genie.remote_daemon.supervisor.state_machine import Rules, SupervisorStateMachine
from dynamo_genie.remote_daemon.supervisor.tenants import MAX_BACK_OFF_S
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.version import PROTOCOLS

DEVICE = m.DeviceInfo("cpu", "cpu", 1 << 30, "2.13")
READY = m.WorkerReady("tcp://h:1", "tcp://h:2", DEVICE)
HELLO = m.Hello(1, PROTOCOLS, "tester")
ONE = WorkerId(1)


def supervisor(*, keyed: bool = False, max_sessions: int = 4, devices: int = 1) -> SupervisorStateMachine:
    rules = Rules("tcp://h:7", 42, keyed, devices, lease_s=10.0, drain_s=5.0, max_sessions=max_sessions)
    return SupervisorStateMachine(rules, now=0.0)


def ready_supervisor(**arguments: int) -> SupervisorStateMachine:
    daemon = supervisor(**arguments)
    daemon.start(0.0)
    daemon.handle(WorkerSaid(ONE, READY), 0.0)
    return daemon


def only_client_message(actions: list[Action]) -> m.SupervisorToClient:
    (message,) = [action.message for action in actions if isinstance(action, TellClient)]
    return message


def admit(daemon: SupervisorStateMachine, peer: bytes = b"p", tenant: str = "", now: float = 0.0) -> m.Welcome:
    welcome = only_client_message(daemon.handle(ClientSaid(peer, tenant, HELLO), now))
    assert isinstance(welcome, m.Welcome)
    return welcome


def test_without_keys_the_worker_starts_before_anybody_asks_and_ready_is_said_once() -> None:
    daemon = supervisor()
    assert daemon.start(0.0) == [StartWorker(ONE, "", 0)]
    assert daemon.handle(WorkerSaid(ONE, READY), 1.0) == [AnnounceReady()]
    daemon.handle(WorkerExited(ONE, "exit code 1"), 50.0)
    assert daemon.handle(WorkerSaid(WorkerId(2), READY), 51.0) == []


def test_the_worker_hears_of_a_session_before_its_client_does() -> None:
    tell_worker, tell_client = ready_supervisor().handle(ClientSaid(b"p", "", HELLO), 1.0)
    assert isinstance(tell_worker, TellWorker)
    assert isinstance(tell_client, TellClient)
    admitted, welcome = tell_worker.message, tell_client.message
    assert isinstance(admitted, m.AdmitSession)
    assert isinstance(welcome, m.Welcome)
    assert (admitted.session, admitted.token, admitted.client) == (welcome.session, welcome.token, "tester")
    assert (welcome.control, welcome.bulk, welcome.device) == ("tcp://h:1", "tcp://h:2", DEVICE)


def test_a_hello_waits_for_a_worker_that_is_still_starting() -> None:
    daemon = supervisor()
    daemon.start(0.0)
    assert daemon.handle(ClientSaid(b"p", "", HELLO), 0.5) == []
    assert daemon.handle(ClientSaid(b"p", "", HELLO), 0.6) == []  # repeated: answered once
    actions = daemon.handle(WorkerSaid(ONE, READY), 1.0)
    assert isinstance(only_client_message(actions), m.Welcome)


def test_as_many_may_wait_as_may_have_sessions() -> None:
    daemon = supervisor(max_sessions=1000)
    daemon.start(0.0)
    for number in range(1000):
        assert daemon.handle(ClientSaid(b"%d" % number, "", HELLO), 0.5) == []
    refused = only_client_message(daemon.handle(ClientSaid(b"last", "", HELLO), 0.5))
    assert isinstance(refused, m.Refused)
    assert refused.code == "QuotaExceeded"


def test_versions_without_overlap_are_refused_and_named() -> None:
    refused = only_client_message(ready_supervisor().handle(ClientSaid(b"p", "", m.Hello(9, (77, 78), "x")), 0.0))
    assert isinstance(refused, m.Refused)
    assert (refused.request_id, refused.code) == (9, "VersionMismatch")
    assert "[77, 78]" in refused.message
    assert str(list(PROTOCOLS)) in refused.message


def test_the_first_worker_that_cannot_start_ends_the_daemon_with_its_reason() -> None:
    daemon = supervisor()
    daemon.start(0.0)
    daemon.handle(ClientSaid(b"p", "", HELLO), 0.5)
    actions = daemon.handle(WorkerSaid(ONE, m.WorkerFailed("OptionError", "no device cuda:7")), 1.0)
    assert actions == [TellClient(b"p", m.Refused(1, "OptionError", "no device cuda:7"))]
    assert daemon.handle(WorkerExited(ONE, "exit code 1"), 1.1) == [Exit(1, "no device cuda:7")]


def test_a_dead_worker_is_told_to_its_sessions_and_replaced_at_once() -> None:
    daemon = ready_supervisor()
    welcome = admit(daemon)
    ended, start = daemon.handle(WorkerExited(ONE, "killed by SIGSEGV"), 20.0)
    assert isinstance(ended, TellClient)
    assert isinstance(ended.message, m.SessionEnded)
    assert (ended.peer, ended.message.session, ended.message.code) == (b"p", welcome.session, "SessionLost")
    assert "SIGSEGV" in ended.message.message
    assert start == StartWorker(WorkerId(2), "", 0)


def test_a_worker_that_ends_itself_is_quoted_to_its_sessions_and_replaced() -> None:
    daemon = ready_supervisor()
    admit(daemon)
    assert daemon.handle(WorkerSaid(ONE, m.WorkerEnding("the device is lost")), 20.0) == []
    ended, start = daemon.handle(WorkerExited(ONE, "exit code 1"), 20.1)
    assert isinstance(ended, TellClient)
    assert isinstance(ended.message, m.SessionEnded)
    assert "the worker died (the device is lost), and all that was resident in it is gone" in ended.message.message
    assert start == StartWorker(WorkerId(2), "", 0)


def test_workers_that_keep_dying_are_restarted_ever_more_slowly() -> None:
    daemon = ready_supervisor()
    delays, now, worker = [], 100.0, 1
    for _ in range(6):
        actions = daemon.handle(WorkerExited(WorkerId(worker), "exit code 3"), now)
        due = now if StartWorker(WorkerId(worker + 1), "", 0) in actions else daemon.next_deadline()
        assert due is not None
        delays.append(due - now)
        now, worker = due, worker + 1
        daemon.handle(Tick(), now)
    assert delays[0] == 0.0
    assert delays == sorted(delays)
    assert delays[-1] > 1.0


def test_a_client_that_comes_while_a_dead_worker_is_not_started_yet_waits_for_the_next() -> None:
    daemon = ready_supervisor()
    daemon.handle(WorkerExited(ONE, "exit code 3"), 100.0)
    daemon.handle(WorkerExited(WorkerId(2), "exit code 3"), 100.1)
    assert daemon.handle(ClientSaid(b"p", "", HELLO), 100.2) == []
    assert daemon.handle(Tick(), 101.0) == [StartWorker(WorkerId(3), "", 0)]
    assert isinstance(only_client_message(daemon.handle(WorkerSaid(WorkerId(3), READY), 102.0)), m.Welcome)


def test_a_client_that_comes_during_back_off_hears_what_the_worker_said_of_itself() -> None:
    daemon = ready_supervisor()
    daemon.handle(WorkerExited(ONE, "exit code 3"), 100.0)
    daemon.handle(WorkerSaid(WorkerId(2), m.WorkerFailed("OptionError", "no device cuda:7")), 100.1)
    daemon.handle(WorkerExited(WorkerId(2), "exit code 1"), 100.1)
    refused = only_client_message(daemon.handle(ClientSaid(b"p", "", HELLO), 100.2))
    assert isinstance(refused, m.Refused)
    assert (refused.code, "no device cuda:7" in refused.message) == ("OptionError", True)


def test_back_off_stays_below_the_patience_of_a_client() -> None:
    daemon = ready_supervisor()
    now, number = 100.0, 1
    for _ in range(40):
        daemon.handle(WorkerExited(WorkerId(number), "exit code 3"), now)
        due = daemon.next_deadline() or now  # the first one starts at once
        assert due - now <= MAX_BACK_OFF_S < Options().connect_timeout_s
        now = due
        daemon.handle(Tick(), now)
        number += 1


def test_workers_that_somebody_else_kills_are_replaced_at_once_each_time_and_no_program_is_blamed() -> None:
    daemon = ready_supervisor()
    for number in range(1, 3 * DEATHS):
        died = WorkerExited(WorkerId(number), "killed by SIGKILL", b"p" * 32, running=True, from_outside=True)
        assert daemon.handle(died, 100.0 + number) == [StartWorker(WorkerId(number + 1), "", 0)]
        daemon.handle(WorkerSaid(WorkerId(number + 1), READY), 100.5 + number)


def two_devices() -> SupervisorStateMachine:
    daemon = supervisor(devices=2)
    daemon.start(0.0)
    for worker in (2, 1):
        ready = m.WorkerReady(f"tcp://h:{worker}0", f"tcp://h:{worker}1", DEVICE)
        daemon.handle(WorkerSaid(WorkerId(worker), ready), 0.0)
    return daemon


def open_device(daemon: SupervisorStateMachine, device: int, peer: bytes = b"p") -> m.SupervisorToClient:
    hello = m.OpenDevice(1, PROTOCOLS, "tester", device)
    return only_client_message(daemon.handle(ClientSaid(peer, "", hello), 0.0))


def test_each_device_has_a_worker_and_ready_means_all_of_them() -> None:
    daemon = supervisor(devices=2)
    assert daemon.start(0.0) == [StartWorker(ONE, "", 0), StartWorker(WorkerId(2), "", 1)]
    assert daemon.handle(WorkerSaid(WorkerId(2), READY), 1.0) == []
    assert daemon.handle(WorkerSaid(ONE, READY), 1.5) == [AnnounceReady()]


def test_a_device_that_cannot_start_ends_the_daemon_although_another_one_did() -> None:
    daemon = supervisor(devices=2)
    daemon.start(0.0)
    daemon.handle(WorkerSaid(ONE, READY), 0.5)
    daemon.handle(WorkerSaid(WorkerId(2), m.WorkerFailed("OptionError", "no device cuda:7")), 1.0)
    assert daemon.handle(WorkerExited(WorkerId(2), "exit code 1"), 1.1) == [Exit(1, "no device cuda:7")]


def test_a_client_gets_the_device_it_asks_for_and_hears_how_many_there_are() -> None:
    daemon = two_devices()
    first, second = admit(daemon), open_device(daemon, 1)
    assert isinstance(second, m.Welcome)
    assert (first.control, first.devices) == ("tcp://h:10", 2)
    assert (second.control, second.devices) == ("tcp://h:20", 2)


def test_a_device_that_is_not_there_is_refused_with_what_there_is() -> None:
    refused = open_device(two_devices(), 2)
    assert isinstance(refused, m.Refused)
    assert (refused.code, refused.message) == (
        "OptionError",
        "there is no device 2: this daemon has 2, counted from 0",
    )


def test_a_worker_that_dies_ends_the_sessions_on_its_device_only() -> None:
    daemon = two_devices()
    first, second = admit(daemon, b"a"), open_device(daemon, 1, b"b")
    ended, start = daemon.handle(WorkerExited(WorkerId(2), "killed by SIGKILL"), 20.0)
    assert isinstance(ended, TellClient)
    assert (ended.peer, start) == (b"b", StartWorker(WorkerId(3), "", 1))
    assert isinstance(second, m.Welcome)
    [dropped] = daemon.handle(ClientSaid(b"a", "", m.Goodbye(first.session)), 21.0)
    assert isinstance(dropped, TellWorker)
    assert dropped.worker == ONE


def test_other_tenants_notice_nothing_of_a_dead_worker() -> None:
    daemon = supervisor(keyed=True)
    assert daemon.start(0.0) == [AnnounceReady()]
    for peer, tenant, worker in ((b"a", "A" * 40, 1), (b"b", "B" * 40, 2)):
        assert daemon.handle(ClientSaid(peer, tenant, HELLO), 0.0) == [StartWorker(WorkerId(worker), tenant, 0)]
        daemon.handle(WorkerStarted(WorkerId(worker), 70 + worker, f"key of {worker}"), 0.0)
        welcome = only_client_message(daemon.handle(WorkerSaid(WorkerId(worker), READY), 0.0))
        assert isinstance(welcome, m.Welcome)
        assert welcome.worker_key == f"key of {worker}"
    actions = daemon.handle(WorkerExited(WorkerId(1), "killed by SIGKILL"), 50.0)
    assert {action.peer for action in actions if isinstance(action, TellClient)} == {b"a"}
    assert StartWorker(WorkerId(3), "A" * 40, 0) in actions


def test_no_tenant_can_touch_the_session_of_another() -> None:
    daemon = supervisor(keyed=True)
    daemon.start(0.0)
    for peer, tenant in ((b"a", "A" * 40), (b"b", "B" * 40)):
        daemon.handle(ClientSaid(peer, tenant, HELLO), 0.0)
    actions = daemon.handle(WorkerSaid(ONE, READY), 0.0)
    welcome = only_client_message(actions)
    assert isinstance(welcome, m.Welcome)
    assert daemon.handle(ClientSaid(b"b", "B" * 40, m.Goodbye(welcome.session)), 1.0) == []
    stolen = only_client_message(daemon.handle(ClientSaid(b"b", "B" * 40, m.Heartbeat(1, welcome.session)), 1.0))
    assert isinstance(stolen, m.SessionEnded)
    own = only_client_message(daemon.handle(ClientSaid(b"a", "A" * 40, m.Heartbeat(1, welcome.session)), 1.0))
    assert own == m.HeartbeatReply(1)


def test_a_lease_that_is_not_renewed_ends_the_session_on_both_sides() -> None:
    daemon = ready_supervisor()
    welcome = admit(daemon, now=0.0)
    daemon.handle(ClientSaid(b"p", "", m.Heartbeat(1, welcome.session)), 6.0)
    assert daemon.handle(Tick(), 15.9) == [TellWorker(ONE, m.WorkerPing())]
    drop, ended = daemon.handle(Tick(), 16.0)
    assert isinstance(drop, TellWorker)
    assert isinstance(drop.message, m.DropSession)
    assert isinstance(ended, TellClient)
    assert isinstance(ended.message, m.SessionEnded)
    late = only_client_message(daemon.handle(ClientSaid(b"p", "", m.Heartbeat(2, welcome.session)), 17.0))
    assert isinstance(late, m.SessionEnded)


def test_goodbye_drops_the_session_and_makes_room() -> None:
    daemon = ready_supervisor(max_sessions=1)
    welcome = admit(daemon)
    refused = only_client_message(daemon.handle(ClientSaid(b"q", "", HELLO), 1.0))
    assert isinstance(refused, m.Refused)
    assert refused.code == "QuotaExceeded"
    assert daemon.handle(ClientSaid(b"p", "", m.Goodbye(welcome.session)), 1.0) == [
        TellWorker(ONE, m.DropSession(welcome.session, "closed by its client"))
    ]
    admit(daemon, b"q", now=2.0)


def report(daemon: SupervisorStateMachine, answers: bool) -> m.DaemonStatus:
    (asked,) = daemon.handle(ClientSaid(b"p", "", m.StatusRequest(5)), 2.0)
    assert isinstance(asked, TellWorker)
    assert isinstance(asked.message, m.WorkerStatusRequest)
    status = m.WorkerStatus("x", 0, "ready", "cpu", 10, 7, 0, 0, 3, ())
    event = WorkerSaid(ONE, m.WorkerStatusReport(asked.message.request_id, status)) if answers else Tick()
    reply = only_client_message(daemon.handle(event, 2.0 if answers else 60.0))
    assert isinstance(reply, m.StatusReply)
    assert reply.request_id == 5
    return reply.status


def test_status_asks_the_worker_but_not_forever() -> None:
    daemon = ready_supervisor()
    daemon.handle(WorkerStarted(ONE, 99), 0.0)
    told = report(daemon, answers=True).workers[0]
    assert (told.tenant, told.pid, told.state, told.resident_nbytes) == ("default", 99, "ready", 7)
    assert report(daemon, answers=False).workers[0].state == "busy"


def test_status_shows_a_tenant_its_own_worker_only() -> None:
    daemon = supervisor(keyed=True)
    daemon.start(0.0)
    daemon.handle(ClientSaid(b"a", "A" * 40, HELLO), 0.0)
    reply = only_client_message(daemon.handle(ClientSaid(b"b", "B" * 40, m.StatusRequest(1)), 0.0))
    assert isinstance(reply, m.StatusReply)
    assert reply.status.workers == ()


def test_drain_refuses_newcomers_waits_for_workers_and_exits_0() -> None:
    daemon = ready_supervisor()
    welcome = admit(daemon)
    assert daemon.handle(DrainRequested(), 1.0) == [TellWorker(ONE, m.Drain())]
    refused = only_client_message(daemon.handle(ClientSaid(b"q", "", HELLO), 1.1))
    assert isinstance(refused, m.Refused)
    assert refused.code == "DaemonUnavailable"
    ended, leave = daemon.handle(WorkerExited(ONE, "exit code 0"), 2.0)
    assert isinstance(ended, TellClient)
    assert ended.message == m.SessionEnded(welcome.session, "SessionLost", "the daemon was shut down")
    assert leave == Exit(0, "")


def test_drain_does_not_wait_longer_than_its_limit_and_a_second_one_not_at_all() -> None:
    slow, impatient = ready_supervisor(), ready_supervisor()
    slow.handle(DrainRequested(), 1.0)
    assert slow.next_deadline() == 6.0
    assert slow.handle(Tick(), 6.0) == [Exit(0, "")]
    impatient.handle(DrainRequested(), 1.0)
    assert impatient.handle(DrainRequested(), 1.5)[-1] == Exit(0, "")


def test_drain_kills_a_worker_that_is_still_starting() -> None:
    daemon = supervisor()
    daemon.start(0.0)
    assert daemon.handle(DrainRequested(), 1.0) == [KillWorker(ONE)]
