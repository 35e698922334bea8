"""A look at connections that belong to ZeroMQ, whose own thread may close them and reuse their numbers at any time."""

from __future__ import annotations

import contextlib
import os
import socket as sockets
import struct
from collections.abc import Iterator

BYTES_RECEIVED_AT = 128
TCP_INFO_NBYTES = 136
"""Where Linux has `tcpi_bytes_received` (64 bits) in `struct tcp_info`, since 4.1."""


class Borrowed:
    """One descriptor kept in reserve, which can stand for any connection, also when no other is free."""

    def __init__(self) -> None:
        self._socket = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        self._nothing, self._other = os.pipe()

    @contextlib.contextmanager
    def connection(self, descriptor: int, inode: int = 0) -> Iterator[sockets.socket | None]:
        """Hold what `descriptor` stands for; None if that has gone, or is not `inode` where that is given."""
        try:
            os.dup2(descriptor, self._socket.fileno(), inheritable=False)
        except OSError:
            yield None
            return
        try:
            yield self._socket if inode in (0, self.inode()) else None
        finally:
            os.dup2(self._nothing, self._socket.fileno(), inheritable=False)  # else the other end would see no end

    def inode(self) -> int:
        """Return the number of what is held, which no other socket has while it is open."""
        return os.fstat(self._socket.fileno()).st_ino

    def close(self) -> None:
        """Give the reserve back."""
        self._socket.close()
        os.close(self._nothing)
        os.close(self._other)


def bytes_received(connection: sockets.socket) -> int | None:
    """Return how many bytes came in on a connection so far; None where the kernel does not count them."""
    try:
        info = connection.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_INFO, TCP_INFO_NBYTES)
    except OSError:
        return None
    return int(struct.unpack_from("=Q", info, BYTES_RECEIVED_AT)[0]) if len(info) == TCP_INFO_NBYTES else None


def peer_address(connection: sockets.socket) -> str:
    """Return HOST:PORT of who is connected; empty for a socket file, or when it has gone already."""
    try:
        peer = connection.getpeername()
    except OSError:
        return ""
    return f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else ""
