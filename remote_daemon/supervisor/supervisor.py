"""The supervisor process: sockets, workers and clocks around the decisions of `state_machine`. Never imports torch."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path

import zmq

from dynamo_genie.errors import AuthenticationError, ProtocolError
from dynamo_genie.remote_daemon.channel.auth import Authenticator, verified_user
from dynamo_genie.remote_daemon.channel.connection_guard import ConnectionGuard
from dynamo_genie.remote_daemon.channel.connection_limits import limits_for
from dynamo_genie.remote_daemon.channel.message_reader import MessageReader, Received
from dynamo_genie.remote_daemon.channel.parent import ProcessWatch
from dynamo_genie.remote_daemon.channel.refusals import RefusalLog, address_of
from dynamo_genie.remote_daemon.channel.sockets import Socket, bind_router
from dynamo_genie.remote_daemon.supervisor.admitted_clients import AdmittedClients
from dynamo_genie.remote_daemon.supervisor.config import SupervisorConfig
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
)
from dynamo_genie.remote_daemon.supervisor.keys import short_form
from dynamo_genie.remote_daemon.supervisor.state_machine import REVOKED, Rules, SupervisorStateMachine
from dynamo_genie.remote_daemon.supervisor.workers import Workers
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.error_codes import error_code
from dynamo_genie.runtime.wire.limits import MAX_CONTROL_NBYTES

logger = logging.getLogger(__name__)

MAX_WAIT_S = 1.0
MAX_MESSAGES_PER_TURN = 256
LAST_WORDS_MS = 500
MAX_ADDRESSES = 1024

LOOK_EVERY_S = 1.0

MAX_PENDING_NBYTES = 256 << 10
"""What a client may have sent to the supervisor that was not read yet; an honest one sends a few hundred bytes."""


class Supervisor:
    """Owns the public endpoint and the workers until it is closed; `run` serves until it is told to end."""

    def __init__(self, config: SupervisorConfig, announce: Callable[[str], None]) -> None:
        self._config = config
        self._announce = announce
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
        self._workers = Workers(config, self._tenant_name)
        closing.callback(self._workers.close)

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
        self._workers.prepare()
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
        self._workers.hear(self._happened, draining=lambda: self._machine.draining)
        self._look_around()
        if self._router in ready:
            self._hear_clients()
        self._happened(Tick())

    def _poller(self) -> zmq.Poller:
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._wake_read, zmq.POLLIN)
        if self._parent is not None and self._parent.fileno() >= 0:
            poller.register(self._parent.fileno(), zmq.POLLIN)
        self._workers.register(poller)
        return poller

    def _wait_ms(self) -> int:
        wait_s = self._workers.wait_s(MAX_WAIT_S)
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
        self._workers.look()
        if self._clients is not None:
            self._happened(KeysListed(self._clients.refresh()))

    # --- hearing ---------------------------------------------------------------------------------------

    def _happened(self, event: Event) -> None:
        if self._exit is None:
            self._do(self._machine.handle(event, time.monotonic()))

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
                    self._workers.tell(worker, to_worker)
                case StartWorker():
                    self._workers.start(action, self._happened)
                case KillWorker(worker, why):
                    self._workers.kill(worker, why, self._happened)
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

    # --- leaving ---------------------------------------------------------------------------------------

    def _close_router(self) -> None:
        self._router.close(linger=LAST_WORDS_MS)
        if self.endpoint.startswith("ipc://"):
            Path(self.endpoint.removeprefix("ipc://")).unlink(missing_ok=True)

    def close(self) -> None:
        """End the workers that still run, and give back all sockets."""
        self._closing.close()
