"""Reads a guarded ROUTER socket frame by frame, for messages whose data are received straight into their place."""

from __future__ import annotations

import zmq

from dynamo_genie.remote_daemon.channel.connection_guard import ConnectionGuard


class FrameReader:
    """The frames of one message after the other; for the thread that owns the socket."""

    def __init__(self, socket: zmq.Socket[bytes], guard: ConnectionGuard) -> None:
        self._socket = socket
        self._guard = guard
        self._sender: zmq.Frame | None = None

    def begin(self) -> zmq.Frame:
        """Return the frame that names the sender of the next message; raises `zmq.Again` where there is none."""
        self._sender = self._socket.recv(zmq.NOBLOCK, copy=False)
        return self._sender

    @property
    def more(self) -> bool:
        """Whether the message has another frame."""
        return bool(self._socket.get(zmq.RCVMORE))

    def receive(self) -> bytes:
        """Return the next frame."""
        data = self._socket.recv(zmq.NOBLOCK)
        self._count(len(data))
        return data

    def receive_into(self, room: memoryview) -> int:
        """Receive the next frame into its place, as much as there is room for; return its size."""
        nbytes = self._socket.recv_into(room, flags=zmq.NOBLOCK)
        self._count(nbytes)
        return nbytes

    def drop_rest(self) -> None:
        """Drop what is left of the message, one frame at a time."""
        while self.more:
            self._count(len(self._socket.recv(zmq.NOBLOCK, copy=False)))

    def _count(self, nbytes: int) -> None:
        assert self._sender is not None
        self._guard.delivered(self._sender, nbytes)
