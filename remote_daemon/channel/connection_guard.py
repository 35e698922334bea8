"""A guard that bounds what each connection of a socket may have sent without being read; it cuts who sends more.

ZeroMQ has no such limit that could be used. A bound on its queue stops it from reading the connection, and then a PING
of that peer, or its end, makes libzmq 4.3 abort the process; and nothing bounds the frames of one message. So the
queues of sockets that are open to others are unbounded, and this thread watches them from outside.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket as sockets
import struct
import threading
import time
from types import MappingProxyType

import zmq
from zmq.utils.monitor import recv_monitor_message

from dynamo_genie.remote_daemon.channel.borrowed import Borrowed, bytes_received, peer_address
from dynamo_genie.remote_daemon.channel.connection_limits import ConnectionLimits, Crowd
from dynamo_genie.remote_daemon.channel.pending_bytes import PeerConnection, on_the_wire
from dynamo_genie.remote_daemon.channel.refusals import RefusalLog
from dynamo_genie.remote_daemon.channel.wakeup import Wakeup

PERIOD_S = 0.025
"""How often connections that bring something are looked at; the others cost nothing."""

QUIET_NBYTES = 4096
"""A connection with less than this unread, which brings nothing more, is left alone until it does."""

MAX_EVENTS_PER_TURN = 256

ABORT = struct.pack("ii", 1, 0)

_FAILED = MappingProxyType(
    {
        zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "its handshake failed: it spoke no ZeroMQ, or stopped speaking",
        zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "its handshake broke the protocol: one side has keys, the other has none",
    }
)
_ENDED = frozenset({zmq.EVENT_DISCONNECTED, zmq.EVENT_CLOSED})


class ConnectionGuard:
    """Watches the connections of a bound socket until it is closed. `delivered` is for the thread that reads it.

    Clients that never got as far as a message are logged too. Connections over socket files are not bounded, for the
    kernel counts no bytes there; only the own user can open them.
    """

    def __init__(
        self, socket: zmq.Socket[bytes], name: str, max_pending_nbytes: int, limits: ConnectionLimits | None = None
    ) -> None:
        """Watch `socket`, called `name` among the threads; a connection with more than so many bytes unread is cut.

        With `limits` connections are counted too, and the reader must say with `prove` whose each is.
        """
        self._watched = socket
        self._limit = max_pending_nbytes
        self._curve = socket.getsockopt(zmq.MECHANISM) == zmq.CURVE
        self._delivered: dict[int, int] = {}  # by descriptor, over all connections that had it
        self._connections: dict[int, PeerConnection] = {}
        self._proven: dict[int, tuple[int, str]] = {}  # by descriptor: of which socket, and what
        self._crowd = Crowd(limits) if limits is not None else None
        self._active: set[PeerConnection] = set()
        self._was_cut: set[int] = set()
        self._reason = ""
        self._refusals = RefusalLog()
        self._borrowed = Borrowed()
        self._news = select.epoll()
        self._stop = Wakeup()
        self._monitor = socket.get_monitor_socket(zmq.EVENT_ACCEPTED | sum(_FAILED) | sum(_ENDED))
        self._thread = threading.Thread(target=self._serve, name=f"genie-guard-{name}", daemon=True)
        self._thread.start()

    def delivered(self, frame: zmq.Frame, nbytes: int) -> None:
        """Count a frame of `nbytes` that was read. `frame` may be any of its message, the routing id included."""
        try:
            descriptor = frame.get(zmq.SRCFD)
        except zmq.ZMQError:  # its sender speaks ZMTP 1 or 2: none of ours, and cut once it has sent its share
            return
        counts = self._delivered
        counts[descriptor] = counts.get(descriptor, 0) + on_the_wire(nbytes, curve=self._curve)

    def prove(self, frame: zmq.Frame, key: str) -> None:
        """Say that the connection of a frame that was read has proven `key`; it is empty where there are no keys."""
        with contextlib.suppress(zmq.ZMQError, OSError):  # the connection has gone
            descriptor = frame.get(zmq.SRCFD)
            self._proven[descriptor] = os.fstat(descriptor).st_ino, key  # the guard may not know of it yet

    def close(self) -> None:
        """Stop watching; for the thread that owns the socket, before it closes it."""
        self._stop.set()
        self._thread.join()
        self._watched.disable_monitor()
        self._monitor.close(linger=0)
        self._news.close()
        self._borrowed.close()
        self._stop.close()

    # --- the guard's own thread ------------------------------------------------------------------------------

    def _serve(self) -> None:
        poller = zmq.Poller()
        for source in (self._monitor, self._news.fileno(), self._stop.fileno()):
            poller.register(source, zmq.POLLIN)
        next_look = 0.0
        while True:
            wait_s = max(0.0, next_look - time.monotonic()) if self._active else None
            ready = dict(poller.poll(None if wait_s is None else int(wait_s * 1000) + 1))
            if self._stop.fileno() in ready:
                return
            if self._monitor in ready:
                self._read_monitor()
            if self._news.fileno() in ready:
                self._note_active()
            if self._active and time.monotonic() >= next_look:
                self._look()
                next_look = time.monotonic() + PERIOD_S

    def _read_monitor(self) -> None:
        for _ in range(MAX_EVENTS_PER_TURN):
            try:
                happened = recv_monitor_message(self._monitor, zmq.NOBLOCK)
            except zmq.Again:
                return
            event, value = happened["event"], happened["value"]
            if event == zmq.EVENT_ACCEPTED:
                self._accepted(value)
            elif event in _ENDED:  # a failed handshake is followed by the end of its connection
                self._ended(value)
            else:
                self._reason = _FAILED.get(zmq.Event(event), "")

    def _accepted(self, descriptor: int) -> None:
        self._forget(descriptor)
        with self._borrowed.connection(descriptor) as peer:
            delivered = self._delivered.get(descriptor, 0)
            received = bytes_received(peer) if peer is not None else None
            if peer is None or received is None:
                return  # it has gone, or comes over a socket file
            connection = PeerConnection(descriptor, self._borrowed.inode(), peer_address(peer), received, delivered)
            self._connections[descriptor] = connection
            self._arm(connection, first=True)
        if self._crowd is not None:
            self._crowd.came(connection.host, descriptor)
            while surplus := self._crowd.surplus(connection.host):
                self._cut_surplus(*surplus)

    def _cut_surplus(self, descriptor: int, why: str) -> None:
        connection = self._connections[descriptor]
        with self._borrowed.connection(descriptor, connection.inode) as peer:
            if self._proof(connection) is not None:
                why = self._proved(connection)  # since it was looked at last
            if peer is None:
                self._forget(descriptor)
            elif why:
                self._cut(connection, peer, why)

    def _forget(self, descriptor: int) -> PeerConnection | None:
        connection = self._connections.pop(descriptor, None)
        if connection is not None:
            self._active.discard(connection)
            if self._crowd is not None:
                self._crowd.left(connection.host, descriptor, connection.client)
        return connection

    def _ended(self, descriptor: int) -> None:
        connection = self._forget(descriptor)  # one connection's end is told before the next begins
        if self._reason and descriptor not in self._was_cut:
            self._refusals.note(connection.address if connection else "", self._reason)
        self._reason = ""
        self._was_cut.discard(descriptor)

    def _arm(self, connection: PeerConnection, *, first: bool = False) -> None:
        """Have the kernel tell when a connection brings something, once."""
        wanted = select.EPOLLIN | select.EPOLLONESHOT
        with contextlib.suppress(OSError):  # it has gone: its end will be told
            if first:
                self._news.register(connection.descriptor, wanted)
            else:
                self._news.modify(connection.descriptor, wanted)

    def _note_active(self) -> None:
        for descriptor, _ in self._news.poll(0):
            connection = self._connections.get(descriptor)
            if connection is not None:
                self._active.add(connection)

    def _look(self) -> None:
        for connection in tuple(self._active):
            if not self._look_at(connection):
                self._active.discard(connection)

    def _look_at(self, connection: PeerConnection) -> bool:
        """Bring one connection's account up to date, cut it if it must be; return whether to look again soon."""
        with self._borrowed.connection(connection.descriptor, connection.inode) as peer:
            if peer is None:
                return False
            before = self._delivered.get(connection.descriptor, 0)
            more = connection.account(bytes_received(peer) or 0, before)
            since = self._delivered.get(connection.descriptor, 0) - before  # read while the kernel was asked
            if connection.pending - since > self._limit:
                why = f"it sent more than {self._limit >> 10} KiB that were not read yet, and was cut"
                self._cut(connection, peer, why)
                return False
            if connection.client is None and (why := self._proved(connection)):
                self._cut(connection, peer, why)
                return False
        if more or connection.pending > QUIET_NBYTES:
            return True
        self._arm(connection)
        return False

    def _proof(self, connection: PeerConnection) -> str | None:
        """Return what a connection has proven; an earlier one may have had its descriptor, and another socket."""
        inode, key = self._proven.get(connection.descriptor, (0, ""))
        return key if inode == connection.inode else None

    def _proved(self, connection: PeerConnection) -> str:
        """Note whose a connection is if that is known by now; return why it must go, if it must."""
        key = self._proof(connection)
        if self._crowd is None or key is None:
            return ""
        connection.client = key or connection.host
        return self._crowd.proved(connection.host, connection.descriptor, connection.client)

    def _cut(self, connection: PeerConnection, peer: sockets.socket, why: str) -> None:
        with contextlib.suppress(OSError):
            peer.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, ABORT)  # what the kernel holds is of no use either
            peer.shutdown(sockets.SHUT_RDWR)  # ZeroMQ sees the end, and gives up what is incomplete
        self._forget(connection.descriptor)
        self._was_cut.add(connection.descriptor)
        self._refusals.note(connection.address, why)
