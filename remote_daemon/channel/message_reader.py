"""Reads a ROUTER socket one message at a time, fairly, and keeps no more of a message than the protocol has frames."""

from __future__ import annotations

import time
from typing import NamedTuple

import zmq

from dynamo_genie.remote_daemon.channel.connection_guard import ConnectionGuard

LOOK_EVERY_S = 0.0005
"""How often libzmq is made to look for peers that have sent first just now; by itself it looks every 100 messages."""


_EVENTS, _POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)  # as plain numbers they cost half


class Received(NamedTuple):
    """One message: who sent it, its first frame, and how many frames came after that and were dropped."""

    peer: bytes
    frame: zmq.Frame
    surplus: int


class MessageReader:
    """Reads messages of one frame from a guarded socket; for the thread that owns the socket."""

    def __init__(self, socket: zmq.Socket[bytes], guard: ConnectionGuard) -> None:
        self._socket = socket
        self._guard = guard
        self._next_look = 0.0

    def readable(self) -> bool:
        """Whether a message waits, that of a peer which has sent first just now included."""
        return int(self._socket.getsockopt(_EVENTS)) & _POLLIN > 0

    def receive(self, flags: int = 0) -> Received:
        """Return the next message; raises `zmq.Again` as `recv` does."""
        socket = self._socket
        if time.monotonic() >= self._next_look:  # one client's hundred slow messages are not read in a row
            socket.getsockopt(_EVENTS)
            self._next_look = time.monotonic() + LOOK_EVERY_S
        peer = socket.recv(flags)
        frame = socket.recv(zmq.NOBLOCK, copy=False)
        self._guard.delivered(frame, len(frame))
        return Received(peer, frame, self._drop_rest() if frame.more else 0)

    def _drop_rest(self) -> int:
        """Drop the frames of a message that has too many, one at a time, and return how many there were."""
        dropped, more = 0, True
        while more:
            frame = self._socket.recv(zmq.NOBLOCK, copy=False)
            self._guard.delivered(frame, len(frame))
            dropped, more = dropped + 1, frame.more
        return dropped
