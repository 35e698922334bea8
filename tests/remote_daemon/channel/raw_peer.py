"""A peer that speaks ZMTP by hand, so that it may do what libzmq's own clients never would."""

from __future__ import annotations

import contextlib
import select
import socket


class RawPeer:
    """A DEALER without keys, after its handshake."""

    def __init__(self, endpoint: str) -> None:
        self._connect(endpoint)
        self.socket.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
        ready = b"\x05READY" + _property(b"Socket-Type", b"DEALER") + _property(b"Identity", b"")
        self.socket.sendall(b"\x04" + bytes([len(ready)]) + ready)
        self._read_handshake()

    @classmethod
    def connect(cls, endpoint: str) -> RawPeer:
        """Return a peer that has connected and said nothing."""
        peer = cls.__new__(cls)
        peer._connect(endpoint)
        return peer

    def _connect(self, endpoint: str) -> None:
        host, port = endpoint.removeprefix("tcp://").rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=10)

    def _read_handshake(self) -> None:
        greeting = 64
        while greeting > 0:
            greeting -= len(self.socket.recv(greeting))
        _, size = self.socket.recv(1), self.socket.recv(1)[0]
        while size > 0:
            size -= len(self.socket.recv(size))

    def send(self, data: bytes, *, more: bool = False) -> None:
        """Send one frame."""
        self.socket.sendall(frame(data, more=more))

    def send_until_cut(self, data: bytes, most_nbytes: int) -> int:
        """Send bytes again and again until the other side ends the connection; return how many went out."""
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < most_nbytes and not select.select([self.socket], [], [], 0)[0]:
                sent += self.socket.send(data)
        return sent

    @property
    def is_cut(self) -> bool:
        """Whether the other side ends the connection within a few seconds."""
        try:
            while self.socket.recv(4096):
                pass
            return True
        except ConnectionError:
            return True
        except TimeoutError:
            return False

    def close(self) -> None:
        self.socket.close()


def frame(data: bytes, *, more: bool = False) -> bytes:
    """Return a ZMTP frame."""
    if len(data) <= 255:
        return bytes([int(more), len(data)]) + data
    return bytes([2 | int(more)]) + len(data).to_bytes(8, "big") + data


def _property(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + len(value).to_bytes(4, "big") + value
