"""A network in the test's hands: a proxy before a daemon that forwards, stands still, cuts or spoils connections.

It listens on another loopback address than the daemon, on the same ports, so that a client which dials it is led to the
workers through it, too.
"""

from __future__ import annotations

import contextlib
import random
import select
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType

HOST, BEHIND = "127.0.0.2", "127.0.0.1"
RESET = struct.pack("ii", 1, 0)
CHUNK_NBYTES = 1 << 16

COMMAND = 0x04
"""A bit of the byte before a sealed frame that nothing seals: where it is set, ZeroMQ opens the frame and drops it."""


class Proxy:
    """Forwards TCP connections to the same port of `BEHIND` until the `with` block ends.

    Attributes:
        made: How many connections were accepted.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        self.made = 0
        self._still = threading.Event()
        self._spoil = 0
        self._random = random.Random(7)
        self._lose: tuple[int, bool] | None = None
        self._ended = False
        self._lock = threading.Lock()
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._listeners = [self._listen(port) for port in ports]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @staticmethod
    def _listen(port: int) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(64)
        return listener

    @contextlib.contextmanager
    def hole(self) -> Iterator[None]:
        """Forward nothing and accept nobody meanwhile; nothing is lost that was on the way."""
        self._still.set()
        try:
            yield
        finally:
            self._still.clear()

    def cut(self) -> None:
        """Reset every connection; what was on the way is lost."""
        with self._lock:
            while self._pairs:
                end = next(iter(self._pairs))
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                self._close(end)

    def spoil(self, times: int = 1) -> None:
        """Change a bit of so many of the next pieces that pass."""
        self._spoil = times

    def lose(self, port: int, *, answer: bool) -> None:
        """Let the next message to a port, or from it, be dropped by whoever gets it, as if it had not been sent."""
        self._lose = port, answer

    def _spoiled(self, end: socket.socket, data: bytes) -> bytes:
        at, bit = -1, 1
        if self._lose is not None and self._lose == self._way_from(end):
            self._lose = None
            at, bit = 0, COMMAND
        elif self._spoil and len(data) > 64:
            self._spoil -= 1
            at = self._random.randrange(len(data))
        return data if at < 0 else data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]

    @staticmethod
    def _way_from(end: socket.socket) -> tuple[int, bool]:
        """Return the port of a connection, and whether what comes from this end of it are answers."""
        host, port = end.getsockname()
        return (port, False) if host == HOST else (end.getpeername()[1], True)

    def _close(self, end: socket.socket) -> None:
        other = self._pairs.pop(end, None)
        end.close()
        if other is not None:
            self._pairs.pop(other, None)
            other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            other.close()

    def _run(self) -> None:
        while not self._ended:
            if self._still.is_set():
                self._still.wait(0.01)
                threading.Event().wait(0.01)
                continue
            with self._lock:
                ends = list(self._pairs)
            try:
                ready, _, _ = select.select([*self._listeners, *ends], [], [], 0.02)
            except (OSError, ValueError):  # one of them was closed meanwhile
                continue
            with self._lock:
                for one in ready:
                    if self._still.is_set():
                        break
                    if one in self._listeners:
                        self._accept(one)
                    elif one in self._pairs:
                        self._forward(one)

    def _accept(self, listener: socket.socket) -> None:
        near, _ = listener.accept()
        try:
            far = socket.create_connection((BEHIND, listener.getsockname()[1]), 2.0)
        except OSError:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            near.close()
            return
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pairs[near], self._pairs[far] = far, near
        self.made += 1

    def _forward(self, end: socket.socket) -> None:
        try:
            data = end.recv(CHUNK_NBYTES)
            if not data:
                raise OSError
            self._pairs[end].sendall(self._spoiled(end, data))
        except OSError:
            self._close(end)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._ended = True
        self._thread.join(10)
        self.cut()
        for listener in self._listeners:
            listener.close()
