"""The worker process: one tenant, one device, everything resident. Started by the supervisor, dies with it.

Two threads: the main one runs commands (`Executor`), the other moves bulk data and talks to the supervisor
(`Transfers`).
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import threading
import time
from functools import partial
from typing import Any

import torch
import zmq

from dynamo_genie.errors import GenieError
from dynamo_genie.remote_daemon.channel.auth import BULK_ZAP_DOMAIN, Authenticator
from dynamo_genie.remote_daemon.channel.parent import die_with_parent
from dynamo_genie.remote_daemon.channel.pipe import WorkerLink, open_worker_link
from dynamo_genie.remote_daemon.channel.sockets import BULK_HIGH_WATER, bind_router
from dynamo_genie.remote_daemon.channel.wakeup import Wakeup
from dynamo_genie.remote_daemon.channel.worker_config import WorkerConfig
from dynamo_genie.remote_daemon.engines.report import engine_statuses
from dynamo_genie.remote_daemon.transfer.bulk_thread import Transfers
from dynamo_genie.remote_daemon.transfer.inbound_links import InboundLinks
from dynamo_genie.remote_daemon.transfer.mailboxes import Admission, Admissions
from dynamo_genie.remote_daemon.worker.device import choose_device, device_info, open_buffers
from dynamo_genie.remote_daemon.worker.device_loss import DeviceLost
from dynamo_genie.remote_daemon.worker.executor import Executor
from dynamo_genie.remote_daemon.worker.session_peers import PeerPort
from dynamo_genie.remote_daemon.worker.sessions import WorkerSession
from dynamo_genie.remote_daemon.worker.state import default_host_limit, open_services
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.limits import MAX_BULK_FRAME_NBYTES, MAX_CONTROL_NBYTES, MAX_STRING

log = logging.getLogger(__name__)

LAST_WORDS_MS = 500


class Worker:
    """Everything a worker owns, wired together."""

    def __init__(self, link: WorkerLink, config: WorkerConfig) -> None:
        self._link = link
        self._config = config
        device = choose_device(config.device)
        self._info = device_info(device, config.memory_limit, config.devices)
        buffers = open_buffers(device, self._info.memory_limit)
        self._services = open_services(
            buffers,
            self._info.memory_limit,
            host_limit=config.host_memory_limit or default_host_limit(config.devices),
            sessions=lambda: self._executor.sessions(),
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
        self._admissions = Admissions(self._services.host_budget, wakeup.set, self._services.allocate)
        bulk, self._bulk_endpoint = self._bind(
            "b", MAX_BULK_FRAME_NBYTES, high_water=BULK_HIGH_WATER, zap_domain=BULK_ZAP_DOMAIN
        )
        self._transfers = Transfers(self._context, bulk, self._admissions, links, config.client_public_key)
        self._executor = Executor(self._control, self._admissions, self._open_session, wakeup, buffers.synchronize)

    def serve(self) -> None:
        """Say that the worker is ready and run until the supervisor drains it or goes away."""
        self._transfers.watch(self._link.fileno(), self._on_link)
        self._link.send(m.WorkerReady(self._control_endpoint, self._bulk_endpoint, self._info))
        threading.Thread(target=self._transfer, name="genie-transfers", daemon=True).start()
        try:
            with torch.inference_mode():
                self._executor.serve()
        except DeviceLost as error:
            self._end(str(error))
        self._transfers.stop()

    def _end(self, reason: str) -> None:
        """Give the reason and exit, without what would wait for a device that never answers."""
        log.error("the worker ends: %s", reason)
        self._link.send(m.WorkerEnding(reason[:MAX_STRING]))
        self._control.close(linger=LAST_WORDS_MS)
        time.sleep(LAST_WORDS_MS / 1000)  # ZeroMQ does not say when its thread has sent the last answer
        os._exit(1)

    def _transfer(self) -> None:
        try:
            self._transfers.serve()
        except BaseException:
            log.exception("the transfer thread failed; the worker ends")
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

    def _open_session(self, admission: Admission) -> WorkerSession:
        send_tensor = partial(self._transfers.send_tensor, admission)
        port = PeerPort(admission.arrivals, admission.traffic, admission.link_failures, send_tensor)
        return WorkerSession(self._services, admission.staging, partial(self._transfers.send, admission), port)

    def _on_link(self) -> None:
        """Do what the supervisor says; runs in the transfer thread."""
        for message in self._link.receive_available():
            match message:
                case m.AdmitSession():
                    self._admissions.admit(message)
                    self._executor.wake()
                case m.DropSession():
                    self._admissions.drop(message.session)
                    self._transfers.forget(message.session)
                    self._executor.wake()
                case m.WorkerStatusRequest():
                    self._link.send(m.WorkerStatusReport(message.request_id, self._status()))
                case m.Drain():
                    self._executor.drain()
        if self._link.closed:
            os._exit(0)  # the supervisor is gone: nobody can reach this process in good order any more
        if self._authenticator is not None and not self._authenticator.alive:
            log.error("the authenticator died; the worker ends")
            os._exit(1)

    def _status(self) -> m.WorkerStatus:
        """Count, from another thread than the executor's: figures may be a call old."""
        services = self._services
        now = time.monotonic()
        sessions = []
        for admission in self._admissions.all():
            session = self._executor.session(admission.session)
            sessions.append(
                m.SessionStatus(
                    session=admission.session.hex()[:12],
                    client=admission.client,
                    age_s=now - admission.since,
                    calls=session.calls if session else 0,
                    handles=len(session.handles) if session else 0,
                    resident_nbytes=session.resident_nbytes if session else 0,
                    spilled_nbytes=session.handles.spilled_nbytes if session else 0,
                )
            )
        return m.WorkerStatus(
            tenant=self._config.tenant,
            pid=os.getpid(),
            state="ready",
            device=f"{self._services.buffers.device} {self._info.name}",
            memory_limit=self._info.memory_limit,
            resident_nbytes=services.budget.used,
            weight_nbytes=services.weights.nbytes,
            programs=len(services.programs),
            calls=sum(session.calls for session in sessions),
            sessions=tuple(sessions),
            peer_sent=self._admissions.traffic.sent,
            peer_received=self._admissions.traffic.received,
            engines=engine_statuses(services.programs.running()),
        )


def main() -> None:
    """Run `python -m dynamo_genie.remote_daemon.worker.worker --link-fd N`."""
    parser = argparse.ArgumentParser(description="Worker of a genie daemon; started by the daemon itself.")
    parser.add_argument("--link-fd", type=int, required=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches the supervisor, which drains us
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    link, config = open_worker_link(parser.parse_args().link_fd)
    die_with_parent(config.supervisor_pid)
    try:
        worker = Worker(link, config)
    except (GenieError, RuntimeError) as error:
        code = type(error).__name__ if isinstance(error, GenieError) else "RemoteError"
        link.send(m.WorkerFailed(code, f"the worker cannot start: {error}"))
        raise SystemExit(1) from error
    worker.serve()


if __name__ == "__main__":
    main()
