"""The log of clients that were refused: who, from where and why. A flood of them is counted, not repeated."""

from __future__ import annotations

import logging
import os
import socket as sockets
import time
from collections.abc import Callable
from types import MappingProxyType

import zmq
from zmq.utils.monitor import recv_monitor_message

logger = logging.getLogger(__name__)

QUIET_S = 60.0
"""After a line about one place and reason, others like it are only counted for so long."""

MAX_KINDS = 1024
MAX_CONNECTIONS = 65_536
MAX_EVENTS_PER_TURN = 256

_FAILED = MappingProxyType(
    {
        zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "its handshake failed: it spoke no ZeroMQ, or stopped speaking",
        zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "its handshake broke the protocol: one side has keys, the other has none",
    }
)
_ENDED = frozenset({zmq.EVENT_DISCONNECTED, zmq.EVENT_CLOSED})


class RefusalLog:
    """Writes one line for each place and reason, and how many like it came since the last one. For one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}

    def note(self, address: str, reason: str, detail: str = "") -> None:
        """Note that a client at HOST:PORT, or at HOST, was refused; `detail` is no part of the kind."""
        host = address.rpartition(":")[0] or address
        now = self._clock()
        since, unsaid = self._seen.get((host, reason), (-QUIET_S, 0))
        if now - since < QUIET_S:
            self._seen[host, reason] = since, unsaid + 1
            return
        if len(self._seen) >= MAX_KINDS:
            self._seen.clear()
        self._seen[host, reason] = now, 0
        more = f" ({unsaid} more like it since the last such line)" if unsaid else ""
        shown = "".join(c if c.isprintable() else "?" for c in detail)
        logger.warning("refused a client at %s: %s%s%s", address or "an unknown address", reason, shown, more)


class HandshakeMonitor:
    """Notes the clients of a bound socket that never got as far as a key or a message. For the socket's own thread.

    ZeroMQ tells no address with a failed handshake; it is asked of the connection, which may have gone by then.
    """

    def __init__(self, socket: zmq.Socket[bytes], refusals: RefusalLog) -> None:
        events = zmq.EVENT_ACCEPTED
        for event in (*_FAILED, *_ENDED):
            events |= event
        self._watched = socket
        self._refusals = refusals
        self._addresses: dict[int, str] = {}
        self._reason = ""
        self.socket = socket.get_monitor_socket(events)

    def read(self) -> None:
        """Take in what happened; never waits."""
        for _ in range(MAX_EVENTS_PER_TURN):
            try:
                happened = recv_monitor_message(self.socket, zmq.NOBLOCK)
            except zmq.Again:
                return
            self._happened(happened["event"], happened["value"])

    def _happened(self, event: int, value: int) -> None:
        if event == zmq.EVENT_ACCEPTED:
            if len(self._addresses) < MAX_CONNECTIONS:
                self._addresses[value] = _peer_address(value)
        elif event in _ENDED:  # a failed handshake is followed by the end of its connection
            address = self._addresses.pop(value, "")
            if self._reason:
                self._refusals.note(address, self._reason)
            self._reason = ""
        else:
            self._reason = _FAILED.get(zmq.Event(event), "")

    def close(self) -> None:
        """Stop listening."""
        self._watched.disable_monitor()
        self.socket.close(linger=0)


def _peer_address(descriptor: int) -> str:
    """Return HOST:PORT of who is connected; empty for a socket file, or when it has gone already."""
    try:
        with sockets.socket(fileno=os.dup(descriptor)) as connection:
            peer = connection.getpeername()
    except OSError:
        return ""
    return f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else ""


def address_of(frame: zmq.Frame) -> str:
    """Return where a received frame came from; empty where ZeroMQ does not know."""
    try:
        return str(frame.get("Peer-Address"))
    except zmq.ZMQError:
        return ""
