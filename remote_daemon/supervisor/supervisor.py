"""The supervisor process: sockets, workers and clocks around the decisions of `state_machine`. Never imports torch."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import zmq

from dynamo_genie.errors import AuthenticationError, ProtocolError
from dynamo_genie.remote_daemon.channel.auth import Authenticator, verified_user
from dynamo_genie.remote_daemon.channel.connection_guard import ConnectionGuard
from dynamo_genie.remote_daemon.channel.message_reader import MessageReader, Received
from dynamo_genie.remote_daemon.channel.parent import ProcessWatch
from dynamo_genie.remote_daemon.channel.policy import IpcAddress, parse_endpoint
from dynamo_genie.remote_daemon.channel.refusals import RefusalLog, address_of
from dynamo_genie.remote_daemon.channel.sockets import Socket, bind_router
from dynamo_genie.remote_daemon.channel.worker_config import WorkerConfig
from dynamo_genie.remote_daemon.supervisor.events import (
    Action,
    AnnounceReady,
    ClientSaid,
    DrainRequested,
    Event,
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
from dynamo_genie.remote_daemon.supervisor.keys import ServerKeys, short_form
from dynamo_genie.remote_daemon.supervisor.state_machine import Rules, SupervisorStateMachine
from dynamo_genie.remote_daemon.supervisor.worker_process import WORKER_COMMAND, WorkerProcess
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.limits import MAX_CONTROL_NBYTES

logger = logging.getLogger(__name__)

MAX_WAIT_S = 1.0
POLL_WITHOUT_PIDFD_S = 0.1
MAX_MESSAGES_PER_TURN = 256
LAST_WORDS_MS = 500
MAX_ADDRESSES = 1024

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
    worker_command: tuple[str, ...] = WORKER_COMMAND


class Supervisor:
    """Owns the public endpoint and the workers until it is closed; `run` serves until it is told to end."""

    def __init__(self, config: SupervisorConfig, announce: Callable[[str], None]) -> None:
        self._config = config
        self._announce = announce
        self._workers: dict[WorkerId, WorkerProcess] = {}
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
        if config.keys is not None:
            self._auth = Authenticator(context, config.keys.clients)
            closing.callback(self._auth.close)
        self._router, self.endpoint = self._bind(context)
        closing.callback(self._close_router)
        self._refusals = RefusalLog()
        self._addresses: dict[bytes, str] = {}
        guard = ConnectionGuard(self._router, "public", MAX_PENDING_NBYTES)
        closing.callback(guard.close)
        self._reader = MessageReader(self._router, guard)
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
            tenant_name=self._tenant_name,
        )

    def _tenant_name(self, key: str) -> str:
        return short_form(key, self._config.keys.clients()) if self._config.keys else "default"

    def request_drain(self) -> None:
        """Ask `run` to end in good order; safe in a signal handler and from other threads."""
        with suppress(BlockingIOError):  # so many requests are waiting already that one more says nothing new
            os.write(self._wake_write, b"d")

    def run(self) -> int:
        """Serve until drained, told to exit, or alone; return the exit code."""
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
        if self._router in ready:
            self._hear_clients()
        self._happened(Tick())

    def _poller(self) -> zmq.Poller:
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._wake_read, zmq.POLLIN)
        if self._parent is not None and self._parent.fileno() >= 0:
            poller.register(self._parent.fileno(), zmq.POLLIN)
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
            process.close()
            self._happened(WorkerExited(worker, how))
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
            if received.surplus:
                raise ProtocolError(f"a message of {received.surplus + 1} frames where one is expected")
            message = codec.client_to_supervisor(received.frame.buffer)
        except ProtocolError as error:
            self._tell_client(peer, m.Refused(0, "ProtocolError", str(error)[:1000]))
            return
        self._happened(ClientSaid(peer, self._tenant_of(received.frame), message))

    def _note_address(self, peer: bytes, frame: zmq.Frame) -> None:
        """Remember where the last clients spoke from: the log names a client that is refused, perhaps later."""
        self._addresses.pop(peer, None)
        self._addresses[peer] = address_of(frame)
        if len(self._addresses) > MAX_ADDRESSES:
            del self._addresses[next(iter(self._addresses))]

    def _tenant_of(self, frame: zmq.Frame) -> str:
        if self._config.keys is None:
            return ""
        user = verified_user(frame)
        if not user:
            raise AuthenticationError("a message without a verified key arrived on a socket that demands one")
        return user

    # --- doing -----------------------------------------------------------------------------------------

    def _do(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case TellClient(peer, message):
                    self._tell_client(peer, message)
                case TellWorker(worker, to_worker):
                    self._workers[worker].pipe.send(to_worker)
                case StartWorker(worker, tenant, device):
                    self._start_worker(worker, tenant, device)
                case KillWorker(worker):
                    self._workers[worker].kill()
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

    def _start_worker(self, worker: WorkerId, tenant: str, device: int) -> None:
        address = parse_endpoint(self._config.listen)
        config = WorkerConfig(
            tenant=self._tenant_name(tenant),
            device=self._config.devices[device],
            devices=len(self._config.devices),
            memory_limit=self._config.memory_limit,
            host_memory_limit=self._config.host_memory_limit,
            listen=f"{address.endpoint()}.{worker}" if isinstance(address, IpcAddress) else address.endpoint(0),
            ports=self._config.worker_ports,
            keys=self._config.keys.pair if self._config.keys else None,
            client_public_key=tenant,
            supervisor_pid=os.getpid(),
            session_share=self._config.session_share,
        )
        process = self._workers[worker] = WorkerProcess(self._config.worker_command, config)
        logger.info("worker %d started for tenant %s", process.pid, config.tenant)
        self._happened(WorkerStarted(worker, process.pid))

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
