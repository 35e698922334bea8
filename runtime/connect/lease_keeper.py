"""Keeps a session's lease alive from a thread of its own, and says when the session is lost."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

import zmq

from dynamo_genie.errors import DaemonUnavailable, GenieError
from dynamo_genie.runtime.connect.supervisor_connection import SupervisorConnection
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.error_codes import error_from_code

logger = logging.getLogger(__name__)

OnLost = Callable[[GenieError], None]

MIN_HEARTBEAT_S, MAX_HEARTBEAT_S = 0.05, 60.0
MIN_SILENCE_S = 5.0
BEATS_UNANSWERED = 3
"""Silence counts only when so many heartbeats were really sent: a process that was stopped gets its chance."""


class LeaseKeeper:
    """Owns the connection from now on. Calls `on_lost` at most once, from its thread."""

    def __init__(self, connection: SupervisorConnection, welcome: m.Welcome, on_lost: OnLost) -> None:
        self._connection = connection
        self._session = welcome.session
        self._heartbeat_s = min(max(welcome.heartbeat_s, MIN_HEARTBEAT_S), MAX_HEARTBEAT_S)
        self._max_silence_s = max(MIN_SILENCE_S, BEATS_UNANSWERED * self._heartbeat_s)
        self._on_lost = on_lost
        self._beats = 0
        self._answered = 0
        self._silent_since = time.monotonic()
        self._pid = os.getpid()
        self._stop_read, self._stop_write = os.pipe()
        self._thread = threading.Thread(target=self._run, name="genie-lease", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float = 5.0) -> None:
        """Say goodbye and stop; in a forked child, where the thread does not exist, do nothing."""
        if os.getpid() != self._pid or self._stop_write < 0:
            return
        os.write(self._stop_write, b"x")
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
        os.close(self._stop_read)
        os.close(self._stop_write)
        self._stop_write = -1

    def _run(self) -> None:
        lost: GenieError | None = None
        try:
            lost = self._keep()
        except GenieError as error:
            lost = error
        except zmq.ZMQError as error:
            lost = DaemonUnavailable(f"the connection to {self._connection.endpoint} broke: {error}")
        finally:
            self._connection.close()
        if lost is not None:
            logger.info("session lost: %s", lost)
            self._on_lost(lost)

    def _keep(self) -> GenieError | None:
        poller = zmq.Poller()
        poller.register(self._connection.socket, zmq.POLLIN)
        poller.register(self._stop_read, zmq.POLLIN)
        next_beat = time.monotonic()
        while True:
            ready = dict(poller.poll(max(0, int((next_beat - time.monotonic()) * 1000) + 1)))
            if self._stop_read in ready:
                self._connection.send(m.Goodbye(self._session))
                return None
            if self._connection.socket in ready:
                lost = self._hear(self._connection.receive())
            else:
                lost = self._judge_silence()
            if lost is not None:
                return lost
            if time.monotonic() >= next_beat:
                self._beat()
                next_beat = time.monotonic() + self._heartbeat_s

    def _beat(self) -> None:
        if self._beats == self._answered:
            self._silent_since = time.monotonic()
        self._beats += 1
        self._connection.send(m.Heartbeat(self._beats, self._session))

    def _hear(self, message: m.SupervisorToClient) -> GenieError | None:
        match message:
            case m.HeartbeatReply(request_id):
                self._answered = max(self._answered, request_id)
                self._silent_since = time.monotonic()
            case m.SessionEnded(session, code, why) if session == self._session:
                return error_from_code(code, f"the session at {self._connection.endpoint} ended: {why}")
            case _:
                pass  # an answer to a request that nobody waits for any more
        return None

    def _judge_silence(self) -> GenieError | None:
        silence_s = time.monotonic() - self._silent_since
        if self._beats - self._answered < BEATS_UNANSWERED or silence_s < self._max_silence_s:
            return None
        return DaemonUnavailable(
            f"the daemon at {self._connection.endpoint} has not answered for {silence_s:.1f} s; "
            "it ended or was restarted, or the network between is down"
        )
