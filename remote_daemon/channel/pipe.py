"""The pipe between the supervisor and one of its workers: length-prefixed messages, both ways.

Neither end ever waits for the other: what the kernel does not take now is kept and sent later, up to a limit.
A pipe belongs to one thread.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from dynamo_genie.errors import DaemonUnavailable, ProtocolError
from dynamo_genie.remote_daemon.channel.worker_config import WorkerConfig
from dynamo_genie.runtime.wire import codec
from dynamo_genie.runtime.wire import messages as m

PREFIX_NBYTES = 4
MAX_MESSAGE_NBYTES = 16 << 20
MAX_PENDING_NBYTES = 16 << 20
READ_NBYTES = 256 << 10

T = TypeVar("T")


class Pipe(Generic[T]):
    """One end of the stream. `closed` turns true when the other end is gone, or stops reading.

    Poll `fileno()` for reading, and for writing too while `pending` is true.
    """

    def __init__(self, sock: socket.socket, decode: Callable[[bytes], T]) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._decode = decode
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self.closed = False

    def fileno(self) -> int:
        """Return the descriptor to poll, -1 once the pipe was closed on this side."""
        return self._socket.fileno()

    @property
    def pending(self) -> bool:
        """Whether something waits for the other end to read; `flush` when the descriptor is writable."""
        return bool(self._outgoing)

    def send(self, message: Any) -> None:
        """Queue `message` and send what the kernel takes now. Does nothing on a closed pipe."""
        data = codec.encode(message)
        assert len(data) <= MAX_MESSAGE_NBYTES
        self._outgoing += len(data).to_bytes(PREFIX_NBYTES, "big") + data
        self.flush()
        if len(self._outgoing) > MAX_PENDING_NBYTES:
            self.closed = True

    def flush(self) -> None:
        """Send what the kernel takes now."""
        while self._outgoing and not self.closed:
            try:
                sent = self._socket.send(self._outgoing)
            except BlockingIOError:
                return
            except OSError:
                self.closed = True
                return
            del self._outgoing[:sent]

    def receive_available(self) -> list[T]:
        """Return the messages that have arrived, without waiting; sets `closed` at the end of the stream."""
        self.flush()
        self._read()
        return [self._decode(data) for data in self._split()]

    def receive_first(self, decode: Callable[[bytes], Any], timeout_s: float) -> Any:
        """Wait for one message and decode it with `decode`; anything after it stays for later."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._read()
            for data in self._split(limit=1):
                return decode(data)
            remaining = deadline - time.monotonic()
            if self.closed or remaining <= 0:
                raise DaemonUnavailable(f"the supervisor sent no configuration within {timeout_s:g} s")
            select.select([self._socket], [], [], remaining)

    def _read(self) -> None:
        while not self.closed:
            try:
                data = self._socket.recv(READ_NBYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.closed = True
                return
            self._incoming += data

    def _split(self, limit: int | None = None) -> list[bytes]:
        found: list[bytes] = []
        start = 0
        while len(self._incoming) - start >= PREFIX_NBYTES and (limit is None or len(found) < limit):
            nbytes = int.from_bytes(self._incoming[start : start + PREFIX_NBYTES], "big")
            if nbytes > MAX_MESSAGE_NBYTES:
                raise ProtocolError(f"a message of {nbytes} bytes on the pipe; the limit is {MAX_MESSAGE_NBYTES}")
            end = start + PREFIX_NBYTES + nbytes
            if end > len(self._incoming):
                break
            found.append(bytes(self._incoming[start + PREFIX_NBYTES : end]))
            start = end
        del self._incoming[:start]
        return found

    def close(self) -> None:
        """Close this end; the other one sees the end of the stream."""
        self.closed = True
        self._socket.close()


WorkerPipe = Pipe[m.SupervisorToWorker]
"""The worker's end."""

SupervisorPipe = Pipe[m.WorkerToSupervisor]
"""The supervisor's end."""


def make_pipe() -> tuple[SupervisorPipe, socket.socket]:
    """Return the supervisor's end, and the socket that a worker inherits as its end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return Pipe(ours, codec.worker_to_supervisor), theirs


def open_worker_pipe(fd: int, timeout_s: float = 10.0) -> tuple[WorkerPipe, WorkerConfig]:
    """Take over the inherited descriptor `--pipe-fd` and read the configuration from it."""
    os.set_inheritable(fd, False)
    pipe: WorkerPipe = Pipe(socket.socket(fileno=fd), codec.supervisor_to_worker)
    try:
        return pipe, pipe.receive_first(_decode_config, timeout_s)
    except BaseException:
        pipe.close()
        raise


_decode_config = msgspec.msgpack.Decoder(WorkerConfig).decode
