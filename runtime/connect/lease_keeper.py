"""Keeps a session's lease alive from a thread of its own, and says when the session is lost."""

from __future__ import annotations

import logging
import os
import socket as sockets
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import zmq

from dynamo_genie.errors import DaemonUnavailable, GenieError
from dynamo_genie.runtime.connect.supervisor_connection import SupervisorConnection
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.error_codes import error_from_code

logger = logging.getLogger(__name__)

OnLost = Callable[[GenieError], None]
OnSilence = Callable[[], None]

MIN_HEARTBEAT_S, MAX_HEARTBEAT_S = 0.05, 60.0
MAX_GRACE_S = 86_400.0
BEATS_UNANSWERED = 3
"""Silence counts only when so many heartbeats were really sent: a process that was stopped gets its chance."""

GONE_S = 5.0
"""A daemon whose endpoint refuses connections for so long has ended; one that is merely silent gets the grace."""

RENEW_EVERY_S = 3.0
"""How long a connection is trusted on which nothing comes: the kernel repeats what was lost ever more rarely."""

PROBE_S = 0.5
"""How long to wait whether a machine refuses a connection."""


def ignore_silence() -> None:
    """Do nothing about a silence."""


class LeaseKeeper:
    """Owns the connection from now on. Calls `on_lost` at most once, `on_silence` now and then, from its thread."""

    def __init__(
        self,
        connection: SupervisorConnection,
        welcome: m.Welcome,
        on_lost: OnLost,
        on_silence: OnSilence = ignore_silence,
    ) -> None:
        self._connection = connection
        self._session = welcome.session
        self._heartbeat_s = min(max(welcome.heartbeat_s, MIN_HEARTBEAT_S), MAX_HEARTBEAT_S)
        self._grace_s = max(GONE_S, BEATS_UNANSWERED * self._heartbeat_s, min(welcome.lease_s, MAX_GRACE_S))
        self._on_lost = on_lost
        self._on_silence = on_silence
        self._renew_at = 0.0
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
        next_beat = time.monotonic() + self._heartbeat_s
        while True:
            poller = zmq.Poller()
            poller.register(self._connection.socket, zmq.POLLIN)
            poller.register(self._stop_read, zmq.POLLIN)
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
        now = time.monotonic()
        silence_s = now - self._silent_since
        if self._beats - self._answered < BEATS_UNANSWERED:
            self._renew_at = self._silent_since + RENEW_EVERY_S
            return None
        endpoint = self._connection.endpoint
        if silence_s >= self._grace_s:
            return DaemonUnavailable(
                f"the daemon at {endpoint} has not answered for {silence_s:.1f} s; it hangs, or the network between "
                "is down (genie daemon --grace says how long a session waits)"
            )
        if silence_s >= GONE_S and refuses(endpoint):
            return DaemonUnavailable(
                f"nothing listens at {endpoint} any more: the daemon there ended {silence_s:.1f} s ago"
            )
        if now >= self._renew_at:
            self._renew_at = now + RENEW_EVERY_S
            self._connection.renew()
            self._beat()
            self._on_silence()
        return None


def refuses(endpoint: str) -> bool:
    """Whether a machine can be reached and says that nothing listens at this endpoint of it."""
    try:
        if endpoint.startswith("tcp://"):
            address = urlsplit(endpoint)
            sockets.create_connection((address.hostname or "", address.port or 0), PROBE_S).close()
        else:
            with sockets.socket(sockets.AF_UNIX) as probe:
                probe.settimeout(PROBE_S)
                probe.connect(endpoint.removeprefix("ipc://"))
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    except OSError:
        return False
    return False
