"""The supervisor's state machine: who is admitted, which worker serves whom, what happens when one dies.

A state machine without sockets, processes or clocks: `handle(event, now)` returns the actions to take.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass

from dynamo_genie.remote_daemon.supervisor.events import (
    Action,
    AnnounceReady,
    ClientSaid,
    DrainRequested,
    Event,
    Exit,
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
from dynamo_genie.remote_daemon.supervisor.leases import Lease, Leases
from dynamo_genie.remote_daemon.supervisor.quarantine import DEATHS, Quarantine
from dynamo_genie.remote_daemon.supervisor.status import STATUS_WAIT_S, StatusQuery
from dynamo_genie.remote_daemon.supervisor.tenants import DIED, Tenant, Waiting
from dynamo_genie.remote_daemon.supervisor.watchdog import processor_time_s
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.version import PROTOCOLS, negotiate

SHUTTING_DOWN = "the daemon is shutting down"
REVOKED = "this client's key is not admitted any more: it was taken out of the daemon's folder of clients"


@dataclass(frozen=True)
class Rules:
    """The limits that a supervisor keeps. `keyed` says whether clients prove a key, `devices` how many there are."""

    endpoint: str
    pid: int
    keyed: bool
    devices: int = 1
    heartbeat_s: float = 1.0
    lease_s: float = 30.0
    drain_s: float = 10.0
    max_sessions: int = 1024
    operator_timeout_s: float = 0.0
    tenant_name: Callable[[str], str] = lambda key: key[:8] or "default"
    processor_time_s: Callable[[int], float] = processor_time_s


class SupervisorStateMachine:
    """The state of a supervisor: all that it knows of its tenants, workers and sessions."""

    def __init__(self, rules: Rules, now: float) -> None:
        self._rules = rules
        self._started = now
        self._leases = Leases(rules.lease_s)
        self._tenants: dict[tuple[str, int], Tenant] = {}
        self._quarantine = Quarantine()
        self._queries: dict[int, StatusQuery] = {}
        self._numbers = 0
        self._announced = False
        self._drain_deadline: float | None = None
        self._exited = False

    @property
    def draining(self) -> bool:
        """Whether no new sessions are admitted because the daemon is about to leave."""
        return self._drain_deadline is not None

    def start(self, now: float) -> list[Action]:
        """Return the first actions: without keys, the one tenant's workers start before anybody asks."""
        if self._rules.keyed:
            self._announced = True
            return [AnnounceReady()]
        tenants = [self._tenant("", device) for device in range(self._rules.devices)]
        return [action for tenant in tenants for action in self._start_worker(tenant)]

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take in what happened and return what to do about it, in order."""
        match event:
            case ClientSaid(peer, tenant, message):
                return self._client_said(peer, tenant, message, now)
            case WorkerStarted():
                return self._worker_started(event, now)
            case WorkerSaid(worker, message):
                return self._worker_said(worker, message, now)
            case WorkerExited():
                return self._worker_exited(event, now)
            case KeysListed(keys):
                return self._revoke(keys)
            case DrainRequested():
                return self._drain(now)
            case Tick():
                return self._tick(now)

    def next_deadline(self) -> float | None:
        """Return when a `Tick` is due at the latest."""
        times = [self._leases.next_expiry(), self._drain_deadline]
        times += [query.deadline for query in self._queries.values()]
        times += [tenant.restart_at for tenant in self._tenants.values()]
        times += [tenant.watchdog.next_ping for tenant in self._tenants.values() if tenant.watchdog is not None]
        return min((time for time in times if time is not None), default=None)

    # --- clients ---------------------------------------------------------------------------------------

    def _client_said(self, peer: bytes, tenant: str, message: m.ClientToSupervisor, now: float) -> list[Action]:
        match message:
            case m.Hello():
                return self._hello(peer, tenant, message, 0, now)
            case m.OpenDevice():
                return self._hello(peer, tenant, message, message.device, now)
            case m.Heartbeat(request_id, session):
                if self._leases.renew(session, tenant, peer, now):
                    return [TellClient(peer, m.HeartbeatReply(request_id))]
                why = "the daemon does not know this session: it was restarted, or the session's lease ran out"
                return [TellClient(peer, m.SessionEnded(session, "SessionLost", why))]
            case m.Goodbye(session):
                lease = self._leases.end(session, tenant)
                return self._drop(lease, "closed by its client") if lease else []
            case m.StatusRequest(request_id):
                return self._status_request(peer, tenant, request_id, now)

    def _hello(self, peer: bytes, key: str, hello: m.Hello | m.OpenDevice, device: int, now: float) -> list[Action]:
        if negotiate(hello.protocols) is None:
            return [_refuse(peer, hello, "VersionMismatch", _no_common_version(hello))]
        if self.draining:
            return [_refuse(peer, hello, "DaemonUnavailable", SHUTTING_DOWN)]
        if device >= self._rules.devices:
            why = f"there is no device {device}: this daemon has {self._rules.devices}, counted from 0"
            return [_refuse(peer, hello, "OptionError", why)]
        tenant = self._tenant(key, device)
        granted = self._leases.granted(peer, hello.request_id)
        if granted is not None and (granted.tenant, granted.device) == (key, device):
            return [TellClient(peer, granted.welcome)]  # it was asked again, and perhaps not heard the first time
        if tenant.ready is not None and tenant.worker is not None:
            return self._admit(tenant, tenant.ready, Waiting(peer, hello), now)
        failure = tenant.failure  # a worker that died may do better next time; what it said of itself stays true
        if failure is not None and failure.code != DIED and tenant.restart_at is not None and tenant.restart_at > now:
            again = f"{failure.message}; the daemon tries again in {tenant.restart_at - now:.1f} s"
            return [_refuse(peer, hello, failure.code, again)]
        return self._wait(tenant, Waiting(peer, hello))

    def _wait(self, tenant: Tenant, client: Waiting) -> list[Action]:
        if client in tenant.waiting:
            return []
        most = self._rules.max_sessions  # when a worker dies, all its sessions may come at once
        if len(tenant.waiting) >= most:
            why = f"{most} clients wait for the worker to start already"
            return [_refuse(client.peer, client.hello, "QuotaExceeded", why)]
        tenant.waiting.append(client)
        is_coming = tenant.worker is not None or tenant.restart_at is not None
        return [] if is_coming else self._start_worker(tenant)

    def _admit(self, tenant: Tenant, ready: m.WorkerReady, client: Waiting, now: float) -> list[Action]:
        assert tenant.worker is not None
        rules, hello = self._rules, client.hello
        if self._leases.count(tenant.key, tenant.device) >= rules.max_sessions:
            why = f"{rules.max_sessions} sessions are open already; close one (dynamo_genie.shutdown())"
            return [_refuse(client.peer, hello, "QuotaExceeded", why)]
        protocol = negotiate(hello.protocols)
        assert protocol is not None
        session, token = secrets.token_bytes(16), secrets.token_bytes(32)
        welcome = m.Welcome(
            hello.request_id, protocol, session, token, ready.control, ready.bulk, ready.device,
            rules.heartbeat_s, rules.lease_s, rules.devices, tenant.worker_key,
        )  # fmt: skip
        self._leases.grant(welcome, tenant.key, tenant.device, hello.client, client.peer, now)
        # the worker hears first: when the client gets there, the token is waiting in the pipe
        return [
            TellWorker(tenant.worker, m.AdmitSession(session, token, hello.client, tenant.key)),
            TellClient(client.peer, welcome),
        ]

    def _drop(self, lease: Lease, reason: str) -> list[Action]:
        tenant = self._tenants[lease.tenant, lease.device]
        if tenant.worker is None or tenant.ready is None:
            return []
        return [TellWorker(tenant.worker, m.DropSession(lease.session, reason))]

    def _revoke(self, keys: Collection[str]) -> list[Action]:
        """End all that tenants have whose key is admitted no more; their messages are refused before they get here."""
        actions: list[Action] = []
        for tenant in [tenant for tenant in self._tenants.values() if tenant.key and tenant.key not in keys]:
            del self._tenants[tenant.key, tenant.device]
            ended = self._leases.end_all(tenant.key, tenant.device)
            actions += self._end_sessions(ended, REVOKED, "AuthenticationError")
            actions += [_refuse(w.peer, w.hello, "AuthenticationError", REVOKED) for w in tenant.take_waiting()]
            if tenant.worker is not None:
                actions.append(KillWorker(tenant.worker, "its tenant's key is admitted no more"))
        return actions

    # --- workers ---------------------------------------------------------------------------------------

    def _tenant(self, key: str, device: int) -> Tenant:
        return self._tenants.setdefault((key, device), Tenant(key, device))

    def _start_worker(self, tenant: Tenant) -> list[Action]:
        self._numbers += 1
        worker = WorkerId(self._numbers)
        tenant.starting(worker)
        return [StartWorker(worker, tenant.key, tenant.device, self._quarantine.of(tenant.key))]

    def _worker_started(self, started: WorkerStarted, now: float) -> list[Action]:
        tenant = self._tenant_of(started.worker)
        if tenant is not None:
            tenant.started(started.pid, started.public_key, now)
        return []

    def _worker_said(self, worker: WorkerId, message: m.WorkerToSupervisor, now: float) -> list[Action]:
        tenant = self._tenant_of(worker)
        if tenant is None:
            return []
        match message:
            case m.WorkerReady():
                return self._worker_ready(tenant, message, now)
            case m.WorkerFailed():
                tenant.failure = message
                return [_refuse(w.peer, w.hello, message.code, message.message) for w in tenant.take_waiting()]
            case m.WorkerEnding(reason):
                tenant.last_words = reason
                return []
            case m.WorkerPong(running_s, what):
                why = tenant.watchdog.answered(running_s, what) if tenant.watchdog is not None else ""
                return self._replace(tenant, why) if why else []
            case m.WorkerStatusReport(request_id, status):
                query = self._queries.get(request_id)
                if query is not None:
                    query.add(worker, status)
                return self._answer_queries(now)

    def _worker_ready(self, tenant: Tenant, ready: m.WorkerReady, now: float) -> list[Action]:
        tenant.became_ready(ready, now, self._rules.operator_timeout_s)
        actions: list[Action] = []
        if not self._announced and all(other.ready is not None for other in self._tenants.values()):
            self._announced = True
            actions.append(AnnounceReady())
        for client in tenant.take_waiting():
            actions += self._admit(tenant, ready, client, now)
        return actions

    def _watch_workers(self, now: float) -> list[Action]:
        """Ask the workers whether they stand, each in its time, and replace who does not."""
        actions: list[Action] = []
        for tenant in self._tenants.values():
            watchdog = tenant.watchdog
            if tenant.worker is None or watchdog is None or now < watchdog.next_ping:
                continue
            why = watchdog.ask(now, self._rules.processor_time_s(tenant.pid))
            actions += self._replace(tenant, why) if why else [TellWorker(tenant.worker, m.WorkerPing())]
        return actions

    def _replace(self, tenant: Tenant, why: str) -> list[Action]:
        """Kill a worker; its end is noticed like any other, and brings the next one."""
        assert tenant.worker is not None
        tenant.last_words, tenant.watchdog = why, None
        return [KillWorker(tenant.worker, why)]

    def _worker_exited(self, exited: WorkerExited, now: float) -> list[Action]:
        tenant = self._tenant_of(exited.worker)
        if tenant is None:
            return []
        how = tenant.last_words or exited.how
        blameless = exited.from_outside and not tenant.last_words  # else it was replaced, or said why it ends
        if exited.program and (exited.running or tenant.last_words) and not (self.draining or blameless):
            how += self._suspect(tenant, exited.program, now)
        tenant.exited(how, now, blameless=blameless)
        actions = self._end_sessions(self._leases.end_all(tenant.key, tenant.device), self._why_ended(how))
        for query in self._queries.values():
            query.awaited.discard(exited.worker)
        actions += self._answer_queries(now)
        if self.draining:
            tenant.restart_at = None
            return actions + self._exit_when_drained(now)
        if not self._announced and tenant.failure is not None:
            return [*actions, self._exit(1, tenant.failure.message)]
        return actions + self._give_up_waiting(tenant) + self._restart_due(now)

    def _suspect(self, tenant: Tenant, program: bytes, now: float) -> str:
        """Count a death with the program that ran; return what there is to say of it."""
        if self._quarantine.died(tenant.key, program, now):
            return f" while it ran program {program.hex()[:12]}, which ended {DEATHS} workers and is not run any more"
        return f" while it ran program {program.hex()[:12]}"

    def _why_ended(self, how: str) -> str:
        if self.draining:
            return "the daemon was shut down"
        return f"the worker died ({how}), and all that was resident in it is gone; a new one is starting"

    def _give_up_waiting(self, tenant: Tenant) -> list[Action]:
        if tenant.failure is None:
            return []
        failure = tenant.failure
        return [_refuse(w.peer, w.hello, failure.code, failure.message) for w in tenant.take_waiting()]

    def _restart_due(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for tenant in self._tenants.values():
            if tenant.restart_at is not None and tenant.restart_at <= now:
                actions += self._start_worker(tenant)
        return actions

    def _tenant_of(self, worker: WorkerId) -> Tenant | None:
        return next((tenant for tenant in self._tenants.values() if tenant.worker == worker), None)

    # --- status ----------------------------------------------------------------------------------------

    def _status_request(self, peer: bytes, key: str, request_id: int, now: float) -> list[Action]:
        own = (tenant for tenant in self._tenants.values() if tenant.key == key)  # nobody else's business
        tenants = tuple(sorted(own, key=lambda tenant: tenant.device))
        self._numbers += 1
        ready = {tenant.worker for tenant in tenants if tenant.worker is not None and tenant.ready is not None}
        query = StatusQuery(peer, request_id, now + STATUS_WAIT_S, tenants, ready)
        self._queries[self._numbers] = query
        asked: list[Action] = [TellWorker(w, m.WorkerStatusRequest(self._numbers)) for w in sorted(query.awaited)]
        return asked + self._answer_queries(now)

    def _answer_queries(self, now: float) -> list[Action]:
        done = [number for number, query in self._queries.items() if not query.awaited or query.deadline <= now]
        return [self._status_reply(self._queries.pop(number), now) for number in done]

    def _status_reply(self, query: StatusQuery, now: float) -> Action:
        rules = self._rules
        names = {tenant.key: rules.tenant_name(tenant.key) for tenant in query.tenants}
        status = m.DaemonStatus(
            rules.endpoint, rules.pid, now - self._started, PROTOCOLS[-1], self.draining, query.workers(names)
        )
        return TellClient(query.peer, m.StatusReply(query.request_id, status))

    # --- time and end ----------------------------------------------------------------------------------

    def _tick(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for lease in self._leases.end_expired(now):
            why = f"nothing was heard from its client for {self._rules.lease_s:g} s"
            actions += self._drop(lease, why) + self._end_sessions([lease], why)
        actions += self._answer_queries(now)
        if self.draining:
            return actions + self._exit_when_drained(now)
        return actions + self._watch_workers(now) + self._restart_due(now)

    def _drain(self, now: float) -> list[Action]:
        again, self._drain_deadline = self.draining, now
        if not again:
            self._drain_deadline = now + self._rules.drain_s
        actions: list[Action] = []
        for tenant in self._tenants.values():
            tenant.restart_at = tenant.watchdog = None
            actions += [_refuse(w.peer, w.hello, "DaemonUnavailable", SHUTTING_DOWN) for w in tenant.take_waiting()]
            if tenant.worker is not None:
                kill, drain = KillWorker(tenant.worker, SHUTTING_DOWN), TellWorker(tenant.worker, m.Drain())
                actions.append(kill if tenant.ready is None else drain)
        return actions + self._exit_when_drained(now)

    def _exit_when_drained(self, now: float) -> list[Action]:
        assert self._drain_deadline is not None
        running = [tenant.worker for tenant in self._tenants.values() if tenant.worker is not None]
        if self._exited or (running and now < self._drain_deadline):
            return []
        ended = [lease for place in self._tenants for lease in self._leases.end_all(*place)]
        return [*self._end_sessions(ended, "the daemon was shut down"), self._exit(0, "")]

    def _exit(self, code: int, message: str) -> Action:
        self._exited = True
        return Exit(code, message)

    def _end_sessions(self, leases: list[Lease], why: str, code: str = "SessionLost") -> list[Action]:
        return [TellClient(lease.peer, m.SessionEnded(lease.session, code, why)) for lease in leases]


def _refuse(peer: bytes, hello: m.Hello | m.OpenDevice, code: str, message: str) -> Action:
    return TellClient(peer, m.Refused(hello.request_id, code, message))


def _no_common_version(hello: m.Hello | m.OpenDevice) -> str:
    return (
        f"the client speaks protocol versions {list(hello.protocols)} and the daemon {list(PROTOCOLS)}; "
        "install the same release of dynamo_genie on both sides"
    )
