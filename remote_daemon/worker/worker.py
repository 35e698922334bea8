"""The worker process: one tenant, one device, everything resident. Started by the supervisor, dies with it.

Two threads: the main one runs commands (`Executor`), the other moves bulk data and talks to the supervisor
(`BulkThread`).
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import zmq

from dynamo_genie.errors import GenieError
from dynamo_genie.machine_paths import for_clients
from dynamo_genie.remote_daemon.channel.auth import BULK_ZAP_DOMAIN, Authenticator
from dynamo_genie.remote_daemon.channel.connection_guard import ConnectionGuard
from dynamo_genie.remote_daemon.channel.message_reader import MessageReader
from dynamo_genie.remote_daemon.channel.parent import die_with_parent
from dynamo_genie.remote_daemon.channel.pipe import WorkerPipe, open_worker_pipe
from dynamo_genie.remote_daemon.channel.program_note import ProgramNote
from dynamo_genie.remote_daemon.channel.sockets import bind_router
from dynamo_genie.remote_daemon.channel.wakeup import Wakeup
from dynamo_genie.remote_daemon.channel.worker_config import WorkerConfig
from dynamo_genie.remote_daemon.engines.report import engine_statuses
from dynamo_genie.remote_daemon.memory.offloader import Offloader
from dynamo_genie.remote_daemon.memory.process_limit import ProcessLimit, reserve_for_threads
from dynamo_genie.remote_daemon.memory.weight_store import Kept
from dynamo_genie.remote_daemon.model_files.catalogue import Catalogue
from dynamo_genie.remote_daemon.model_files.digest_index import KnownContents
from dynamo_genie.remote_daemon.model_files.filed_weights import FiledWeights, KeptTogether
from dynamo_genie.remote_daemon.model_files.models import Models
from dynamo_genie.remote_daemon.transfer.bulk_thread import BulkThread
from dynamo_genie.remote_daemon.transfer.inbound_links import InboundLinks
from dynamo_genie.remote_daemon.transfer.mailboxes import SessionMailbox, SessionMailboxes
from dynamo_genie.remote_daemon.weight_files.background import KeptWeights
from dynamo_genie.remote_daemon.weight_files.cache import WeightCache
from dynamo_genie.remote_daemon.worker.attached_sessions import AttachedSessions
from dynamo_genie.remote_daemon.worker.device import choose_device, device_info, open_buffers
from dynamo_genie.remote_daemon.worker.device_loss import DeviceLost
from dynamo_genie.remote_daemon.worker.executor import Executor
from dynamo_genie.remote_daemon.worker.operator_watch import OperatorWatch
from dynamo_genie.remote_daemon.worker.session_peers import PeerPort
from dynamo_genie.remote_daemon.worker.sessions import WorkerSession
from dynamo_genie.remote_daemon.worker.state import default_host_limit, open_state
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.error_codes import error_code
from dynamo_genie.runtime.wire.limits import MAX_BULK_FRAME_NBYTES, MAX_CONTROL_NBYTES, MAX_STRING, WINDOW_NBYTES

log = logging.getLogger(__name__)

LAST_WORDS_MS = 500

MAX_PENDING_NBYTES = 2 * WINDOW_NBYTES
"""What a client may have sent on its control connection that was not read yet."""


class Worker:
    """Everything a worker owns, wired together."""

    def __init__(self, pipe: WorkerPipe, config: WorkerConfig) -> None:
        self._pipe = pipe
        self._config = config
        reserve_for_threads()
        device = choose_device(config.device)
        self._info = device_info(device, config.memory_limit, config.devices)
        offloader = Offloader(self._info.memory_limit)
        buffers = open_buffers(device, offloader)
        host_limit = config.host_memory_limit or default_host_limit(config.devices)
        self._process_limit = ProcessLimit()
        catalogue = Catalogue(tuple(map(Path, config.models)))
        self._state = open_state(
            buffers,
            offloader,
            host_limit=host_limit,
            note=ProgramNote(config.note_fd),
            quarantined=config.quarantined,
            process_limit=self._process_limit,
            session_share=config.session_share,
            kept=_open_kept(config, catalogue),
            models=Models(catalogue),
        )
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=2)
        links = InboundLinks()
        self._authenticator = None
        if config.keys is not None:
            self._authenticator = Authenticator(
                self._context, lambda: {config.client_public_key}, lambda: links.public_keys
            )
        self._control, self._control_endpoint = self._bind("c", MAX_CONTROL_NBYTES)
        wakeup = Wakeup()
        self._mailboxes = SessionMailboxes(
            self._state.host_budget, wakeup.set, self._state.allocate, config.session_share
        )
        bulk, self._bulk_endpoint = self._bind("b", MAX_BULK_FRAME_NBYTES, zap_domain=BULK_ZAP_DOMAIN)
        self._unwanted: set[bytes] = set()
        self._bulk = BulkThread(
            self._context, bulk, self._mailboxes, links, self._cancel, self._interrupt, config.client_public_key
        )
        self._guard = ConnectionGuard(self._control, "control", MAX_PENDING_NBYTES)
        reader = MessageReader(self._control, self._guard)
        sessions = AttachedSessions(self._mailboxes, self._open_session)
        self._executor = Executor(self._control, reader, sessions, wakeup, buffers.synchronize)

    def serve(self) -> None:
        """Say that the worker is ready and run until the supervisor drains it or goes away."""
        served = self._state.served
        self._operators = OperatorWatch(threading.get_ident(), lambda: served.commands)
        self._bulk.watch(self._pipe.fileno(), self._on_pipe)
        self._pipe.send(m.WorkerReady(self._control_endpoint, self._bulk_endpoint, self._info))
        threading.Thread(target=self._transfer, name="genie-bulk", daemon=True).start()
        if self._state.host_budget is self._state.budget:  # else the limit is that of another memory
            self._process_limit.start(self._state.budget.limit)
        try:
            with torch.inference_mode():
                self._executor.serve()
        except DeviceLost as error:
            self._end(str(error))
        self._bulk.stop()
        self._guard.close()

    def _end(self, reason: str) -> None:
        """Give the reason and exit, without what would wait for a device that never answers."""
        log.error("the worker ends: %s", reason)
        self._pipe.send(m.WorkerEnding(for_clients(reason)[:MAX_STRING]))
        self._control.close(linger=LAST_WORDS_MS)
        time.sleep(LAST_WORDS_MS / 1000)  # ZeroMQ does not say when its thread has sent the last answer
        os._exit(1)

    def _transfer(self) -> None:
        try:
            self._bulk.serve()
        except BaseException:
            log.exception("the bulk thread failed; the worker ends")
            os._exit(1)

    def _bind(self, name: str, max_frame_nbytes: int, **settings: Any) -> tuple[zmq.Socket[bytes], str]:
        endpoint, ports = self._config.bind_arguments(name)
        return bind_router(
            self._context,
            endpoint,
            max_frame_nbytes=max_frame_nbytes,
            curve=self._config.keys,
            ports=ports,
            **settings,
        )

    def _open_session(self, mailbox: SessionMailbox) -> WorkerSession:
        send_tensor = partial(self._bulk.send_tensor, mailbox)
        port = PeerPort(mailbox.arrivals, mailbox.traffic, mailbox.link_failures, send_tensor)
        return WorkerSession(self._state, mailbox.staging, partial(self._bulk.send, mailbox), port)

    def _on_pipe(self) -> None:
        """Do what the supervisor says; runs in the bulk thread."""
        for message in self._pipe.receive_available():
            match message:
                case m.AdmitSession():
                    self._mailboxes.admit(message)
                    self._executor.wake()
                case m.DropSession():
                    self._mailboxes.drop(message.session)
                    self._bulk.forget(message.session)
                    self._executor.end(message.session)
                    self._unwanted.add(message.session)
                case m.WorkerStatusRequest():
                    self._pipe.send(m.WorkerStatusReport(message.request_id, self._status()))
                case m.WorkerPing():
                    self._pipe.send(m.WorkerPong(*self._operators.look()))
                case m.Drain():
                    self._executor.drain()
        if self._pipe.closed:
            os._exit(0)  # the supervisor is gone: nobody can reach this process in good order any more
        if self._authenticator is not None and not self._authenticator.alive:
            log.error("the authenticator died; the worker ends")
            os._exit(1)

    def _cancel(self, session: bytes, sequence: int) -> None:
        """Let calls fail that a client waits for no more; runs in the bulk thread."""
        self._executor.cancel(session, sequence)
        self._unwanted.add(session)

    def _interrupt(self) -> bool:
        """Interrupt what runs if nobody waits for it; say whether to look again soon. Runs in the bulk thread."""
        if not self._unwanted:
            return False
        self._unwanted = {session for session in self._unwanted if self._executor.unwanted(session)}
        self._operators.interrupt(lambda stream: stream.running_unwanted)
        return bool(self._unwanted)

    def _status(self) -> m.WorkerStatus:
        """Count, from another thread than the executor's: figures may be a call old."""
        state = self._state
        now = time.monotonic()
        sessions = []
        for mailbox in self._mailboxes.all():
            session = self._executor.session(mailbox.session)
            sessions.append(
                m.SessionStatus(
                    session=mailbox.session.hex()[:12],
                    client=mailbox.client,
                    age_s=now - mailbox.since,
                    calls=session.calls if session else 0,
                    handles=len(session.handles) if session else 0,
                    resident_nbytes=session.resident_nbytes if session else 0,
                    spilled_nbytes=session.handles.offloaded_nbytes if session else 0,
                )
            )
        return m.WorkerStatus(
            tenant=self._config.tenant,
            pid=os.getpid(),
            state="ready",
            device=f"{self._state.buffers.device} {self._info.name}",
            memory_limit=self._info.memory_limit,
            resident_nbytes=state.budget.used,
            weight_nbytes=state.weights.nbytes,
            programs=len(state.programs),
            calls=state.served.calls,
            sessions=tuple(sessions),
            peer_sent=self._mailboxes.traffic.sent,
            peer_received=self._mailboxes.traffic.received,
            engines=engine_statuses(state.programs.running()),
        )


def _open_kept(config: WorkerConfig, catalogue: Catalogue) -> Kept | None:
    """Return the weights that outlive the worker, in the daemon's models and in its cache; None where none do."""
    cache = _open_cache(config)
    if not config.models:
        return cache
    filed = FiledWeights(catalogue, KnownContents(tuple(map(Path, config.model_indexes))))
    return filed if cache is None else KeptTogether(filed, cache)


def _open_cache(config: WorkerConfig) -> KeptWeights | None:
    """Return the weights that are kept in a directory; None where there are none, or the directory is no good."""
    if not config.weight_cache:
        return None
    try:
        return KeptWeights(WeightCache(Path(config.weight_cache), config.weight_cache_limit))
    except OSError as error:
        log.warning("weights cannot be kept in %s: %s", config.weight_cache, error.strerror)
        return None


def main() -> None:
    """Run `python -m dynamo_genie.remote_daemon.worker.worker --pipe-fd N`."""
    parser = argparse.ArgumentParser(description="Worker of a genie daemon; started by the daemon itself.")
    parser.add_argument("--pipe-fd", type=int, required=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches the supervisor, which drains us
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pipe, config = open_worker_pipe(parser.parse_args().pipe_fd)
    die_with_parent(config.supervisor_pid)
    try:
        worker = Worker(pipe, config)
    except (GenieError, RuntimeError) as error:
        code = error_code(error) if isinstance(error, GenieError) else "RemoteError"
        pipe.send(m.WorkerFailed(code, for_clients(f"the worker cannot start: {error}")))
        raise SystemExit(1) from error
    worker.serve()


if __name__ == "__main__":
    main()
