"""The supervisor process: sockets, workers and clocks around the decisions of `state_machine`. Never imports torch."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import zmq

from dynamo_genie.errors import AuthenticationError, ProtocolError
from dynamo_genie.remote_daemon.channel.auth import Authenticator, verified_user
from dynamo_genie.remote_daemon.channel.connection_guard import ConnectionGuard
from dynamo_genie.remote_daemon.channel.connection_limits import limits_for
from dynamo_genie.remote_daemon.channel.message_reader import MessageReader, Received
from dynamo_genie.remote_daemon.channel.parent import ProcessWatch
from dynamo_genie.remote_daemon.channel.policy import IpcAddress, parse_endpoint
from dynamo_genie.remote_daemon.channel.refusals import RefusalLog, address_of
from dynamo_genie.remote_daemon.channel.sockets import Socket, bind_router
from dynamo_genie.remote_daemon.channel.worker_config import WorkerConfig
from dynamo_genie.remote_daemon.sandbox.policy import SandboxPolicy
from dynamo_genie.remote_daemon.sandbox.scratch import Scratch, sweep
from dynamo_genie.remote_daemon.supervisor.admitted_clients import AdmittedClients
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
from dynamo_genie.remote_daemon.supervisor.keys import ServerKeys, fresh_pair, short_form
from dynamo_genie.remote_daemon.supervisor.oom import OutOfMemoryKills
from dynamo_genie.remote_daemon.supervisor.standby import Standby, bury_strangers
from dynamo_genie.remote_daemon.supervisor.state_machine import REVOKED, Rules, SupervisorStateMachine
from dynamo_genie.remote_daemon.supervisor.worker_process import WORKER_COMMAND, WorkerProcess
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.error_codes import error_code
from dynamo_genie.runtime.wire.limits import MAX_CONTROL_NBYTES

logger = logging.getLogger(__name__)

MAX_WAIT_S = 1.0
POLL_WITHOUT_PIDFD_S = 0.1
MAX_MESSAGES_PER_TURN = 256
LAST_WORDS_MS = 500
MAX_ADDRESSES = 1024

LOOK_EVERY_S = 1.0

MAX_PENDING_NBYTES = 256 << 10
"""What a client may have sent to the supervisor that was not read yet; an honest one sends a few hundred bytes."""


@dataclass(frozen=True)
class SupervisorConfig:
    """The configuration of a supervisor: what `genie daemon` was asked to do."""

    listen: str
    devices: tuple[str, ...] = ("auto",)
    memory_limit: int = 0
    host_memory_limit: int = 0
    session_share: float = 1.0
    keys: ServerKeys | None = None
    worker_ports: tuple[int, int] | None = None
    parent_pid: int | None = None
    heartbeat_s: float = 1.0
    lease_s: float = 30.0
    drain_s: float = 10.0
    max_sessions: int = 1024
    operator_timeout_s: float = 0.0
    standby: bool = False
    worker_command: tuple[str, ...] = WORKER_COMMAND
    sandbox: SandboxPolicy = field(default_factory=SandboxPolicy)


class Supervisor:
    """Owns the public endpoint and the workers until it is closed; `run` serves until it is told to end."""

    def __init__(self, config: SupervisorConfig, announce: Callable[[str], None]) -> None:
        self._config = config
        self._announce = announce
        self._workers: dict[WorkerId, WorkerProcess] = {}
        self._unstarted: list[StartWorker] = []
        self._exit: Exit | None = None
        self._closing = ExitStack()
        with ExitStack() as undo:
            undo.enter_context(self._closing)
            self._open()
            undo.pop_all()

    def _open(self) -> None:
        config, closing = self._config, self._closing
        context: zmq.Context[Socket] = zmq.Context()
        closing.callback(context.term)
        self._wake_read, self._wake_write = os.pipe()
        closing.callback(os.close, self._wake_read)
        closing.callback(os.close, self._wake_write)
        os.set_blocking(self._wake_write, False)
        self._parent = None if config.parent_pid is None else ProcessWatch(config.parent_pid)
        if self._parent is not None:
            closing.callback(self._parent.close)
        self._auth: Authenticator | None = None
        self._clients: AdmittedClients | None = None
        self._next_look = 0.0
        self._oom_kills = OutOfMemoryKills()
        self._standby: Standby | None = None
        if config.keys is not None:
            self._clients = AdmittedClients(config.keys.clients_folder)
            self._auth = Authenticator(context, self._clients.names)
            closing.callback(self._auth.close)
        self._router, self.endpoint = self._bind(context)
        closing.callback(self._close_router)
        self._refusals = RefusalLog()
        self._addresses: dict[bytes, str] = {}
        limits = limits_for(config.max_sessions)
        self._guard = ConnectionGuard(self._router, "public", MAX_PENDING_NBYTES, limits)
        closing.callback(self._guard.close)
        self._reader = MessageReader(self._router, self._guard)
        self._machine = SupervisorStateMachine(self._rules(), time.monotonic())

    def _bind(self, context: zmq.Context[Socket]) -> tuple[Socket, str]:
        pair = self._config.keys.pair if self._config.keys else None
        return bind_router(context, self._config.listen, max_frame_nbytes=MAX_CONTROL_NBYTES, curve=pair)

    def _rules(self) -> Rules:
        config = self._config
        return Rules(
            endpoint=self.endpoint,
            pid=os.getpid(),
            keyed=config.keys is not None,
            devices=len(config.devices),
            heartbeat_s=config.heartbeat_s,
            lease_s=config.lease_s,
            drain_s=config.drain_s,
            max_sessions=config.max_sessions,
            operator_timeout_s=config.operator_timeout_s,
            tenant_name=self._tenant_name,
        )

    def _tenant_name(self, key: str) -> str:
        return short_form(key, self._clients.names()) if self._clients is not None else "default"

    def request_drain(self) -> None:
        """Ask `run` to end in good order; safe in a signal handler and from other threads."""
        with suppress(BlockingIOError):  # so many requests are waiting already that one more says nothing new
            os.write(self._wake_write, b"d")

    def run(self) -> int:
        """Serve until drained, told to exit, or alone; return the exit code."""
        self._config.sandbox.announce_gaps()
        sweep(*self._scratch_place(), self._config.sandbox.user)
        self._config.sandbox.prepare(self._config.worker_command[-1])
        if self._config.standby:
            self._standby = Standby(self._config.worker_command[-1], hide=not self._config.sandbox.walls)
            self._closing.callback(self._standby.close)
        self._do(self._machine.start(time.monotonic()))
        while self._exit is None:
            self._turn()
        if self._exit.message:
            logger.error("%s", self._exit.message)
        return self._exit.code

    def _turn(self) -> None:
        ready = dict(self._poller().poll(self._wait_ms()))
        if self._wake_read in ready:
            for _ in os.read(self._wake_read, 64):
                self._happened(DrainRequested())
        self._check_guards()
        for worker in tuple(self._workers):
            self._hear_worker(worker)
        self._look_around()
        self._look_at_standby()
        if self._router in ready:
            self._hear_clients()
        self._happened(Tick())

    def _poller(self) -> zmq.Poller:
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._wake_read, zmq.POLLIN)
        if self._parent is not None and self._parent.fileno() >= 0:
            poller.register(self._parent.fileno(), zmq.POLLIN)
        if self._standby is not None and self._standby.fileno() >= 0:
            poller.register(self._standby.fileno(), zmq.POLLIN)
        for process in self._workers.values():
            if not process.pipe.closed:
                poller.register(process.pipe.fileno(), zmq.POLLIN | (zmq.POLLOUT if process.pipe.pending else 0))
            if process.exit_fd >= 0:
                poller.register(process.exit_fd, zmq.POLLIN)
        return poller

    def _wait_ms(self) -> int:
        wait_s = MAX_WAIT_S
        if any(process.exit_fd < 0 for process in self._workers.values()):
            wait_s = POLL_WITHOUT_PIDFD_S
        due = self._machine.next_deadline()
        if due is not None:
            wait_s = min(wait_s, max(0.0, due - time.monotonic()))
        return int(wait_s * 1000) + 1

    def _check_guards(self) -> None:
        if self._parent is not None and self._parent.ended:
            self._exit = Exit(0, "")
            logger.info("process %d, for which this daemon ran, is gone", self._parent.pid)
        if self._auth is not None and not self._auth.alive:
            self._exit = Exit(1, "the authenticator died; serving stops, because nobody could be told apart any more")

    def _look_around(self) -> None:
        """Look once in a while at what changes without a word: the admitted keys, and kills for lack of memory."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOOK_EVERY_S
        self._oom_kills.look()
        if self._standby is not None:
            bury_strangers({self._standby.pid, *(process.pid for process in self._workers.values())})
        if self._clients is not None:
            self._happened(KeysListed(self._clients.refresh()))

    def _look_at_standby(self) -> None:
        """See whether workers can be forked by now, and start those that waited for that."""
        if self._standby is None:
            return
        self._standby.look()
        if not self._standby.is_loading:
            waiting, self._unstarted = self._unstarted, []
            for start in waiting:
                self._start_worker(start)

    # --- hearing ---------------------------------------------------------------------------------------

    def _happened(self, event: Event) -> None:
        if self._exit is None:
            self._do(self._machine.handle(event, time.monotonic()))

    def _hear_worker(self, worker: WorkerId) -> None:
        process = self._workers[worker]
        how = process.poll()  # before the link is read, so that last words are not lost
        try:
            for message in process.pipe.receive_available():
                self._happened(WorkerSaid(worker, message))
        except ProtocolError as error:
            logger.error("worker %d is stopped: %s", process.pid, error)
            process.kill()
        if how is not None:
            logger.log(logging.INFO if how == "exit code 0" else logging.WARNING, "worker %d: %s", process.pid, how)
            del self._workers[worker]
            how = self._oom_kills.explain(how)
            exited = WorkerExited(worker, how, process.note.last, process.note.running)
            process.close()
            self._happened(exited)
        elif process.pipe.closed and not self._machine.draining:
            process.kill()  # nobody can talk to it any more; its end is noticed like any other

    def _hear_clients(self) -> None:
        for _ in range(MAX_MESSAGES_PER_TURN):
            try:
                received = self._reader.receive(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._hear_client(received)

    def _hear_client(self, received: Received) -> None:
        peer = received.peer
        self._note_address(peer, received.frame)
        try:
            tenant = self._tenant_of(received.frame)
            if received.surplus:
                raise ProtocolError(f"a message of {received.surplus + 1} frames where one is expected")
            message = codec.client_to_supervisor(received.frame.buffer)
        except (ProtocolError, AuthenticationError) as error:
            self._tell_client(peer, m.Refused(0, error_code(error), str(error)[:1000]))
            return
        self._happened(ClientSaid(peer, tenant, message))

    def _note_address(self, peer: bytes, frame: zmq.Frame) -> None:
        """Remember where the last clients spoke from: the log names a client that is refused, perhaps later."""
        self._addresses.pop(peer, None)
        self._addresses[peer] = address_of(frame)
        if len(self._addresses) > MAX_ADDRESSES:
            del self._addresses[next(iter(self._addresses))]

    def _tenant_of(self, frame: zmq.Frame) -> str:
        if self._clients is None:
            self._guard.prove(frame, "")
            return ""
        user = verified_user(frame)
        if user not in self._clients.names():  # its connection may be older than that
            raise AuthenticationError(REVOKED)
        self._guard.prove(frame, user)
        return user

    # --- doing -----------------------------------------------------------------------------------------

    def _do(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case TellClient(peer, message):
                    self._tell_client(peer, message)
                case TellWorker(worker, to_worker):
                    self._workers[worker].pipe.send(to_worker)
                case StartWorker():
                    self._start_worker(action)
                case KillWorker(worker):
                    self._kill(worker)
                case AnnounceReady():
                    self._announce(self.endpoint)
                case Exit():
                    self._exit = action

    def _tell_client(self, peer: bytes, message: m.SupervisorToClient) -> None:
        if isinstance(message, m.Refused):
            self._refusals.note(self._addresses.get(peer, ""), message.code, f": {message.message}")
        try:
            self._router.send_multipart([peer, codec.encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise
            logger.debug("a client that went away is not told %s", type(message).__name__)

    def _kill(self, worker: WorkerId) -> None:
        if worker in self._workers:
            self._workers[worker].kill()
            return
        self._unstarted = [start for start in self._unstarted if start.worker != worker]
        self._happened(WorkerExited(worker, "it was never started"))

    def _start_worker(self, start: StartWorker) -> None:
        if self._standby is not None and self._standby.is_loading:
            self._unstarted.append(start)
            return
        worker, tenant, device = start.worker, start.tenant, start.device
        address = parse_endpoint(self._config.listen)
        pair = fresh_pair() if self._config.keys else None
        sandbox = self._config.sandbox
        scratch = Scratch(*self._scratch_place(), sandbox.user)
        config = WorkerConfig(
            tenant=self._tenant_name(tenant),
            device=self._config.devices[device],
            devices=len(self._config.devices),
            memory_limit=self._config.memory_limit,
            host_memory_limit=self._config.host_memory_limit,
            listen=f"ipc://{scratch.path}/" if isinstance(address, IpcAddress) else address.endpoint(0),
            ports=self._config.worker_ports,
            keys=pair,
            client_public_key=tenant,
            supervisor_pid=os.getpid(),
            quarantined=start.quarantined,
            session_share=self._config.session_share,
        )
        restrictions = sandbox.restrictions(scratch, config.device)
        try:
            process = WorkerProcess(self._config.worker_command, config, restrictions, scratch, self._standby)
            self._workers[worker] = process
        except OSError as error:  # no descriptor or no memory left: a reason to try again, not to end
            logger.error("a worker for tenant %s cannot be started: %s", config.tenant, error)
            self._happened(WorkerExited(worker, f"it could not be started: {error.strerror}"))
            return
        logger.info("worker %d started for tenant %s", process.pid, config.tenant)
        self._happened(WorkerStarted(worker, process.pid, pair.public if pair else ""))

    def _scratch_place(self) -> tuple[str, str]:
        """Return where workers' own directories are made, which hold their sockets if those are files, and a prefix."""
        address = parse_endpoint(self._config.listen)
        if isinstance(address, IpcAddress):
            path = Path(address.path)
            return str(path.parent), f"{path.name}.worker-"
        return tempfile.gettempdir(), "genie-worker-"

    # --- leaving ---------------------------------------------------------------------------------------

    def _close_router(self) -> None:
        self._router.close(linger=LAST_WORDS_MS)
        if self.endpoint.startswith("ipc://"):
            Path(self.endpoint.removeprefix("ipc://")).unlink(missing_ok=True)

    def close(self) -> None:
        """End the workers that still run, and give back all sockets."""
        while self._workers:
            self._workers.popitem()[1].close()
        self._closing.close()
