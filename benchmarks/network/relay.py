"""Adds a delay to every TCP connection that comes into a network namespace: what stands for the length of the cable.

`python -m dynamo_genie.bench.network.relay DELAY_S` listens on a free port of every address, prints `ready PORT`, and
runs until it is ended. A rule of iptables redirects to it what arrives from outside; it goes on to the loopback port
that was meant (`SO_ORIGINAL_DST`). Each chunk, either way, is held for the delay and not changed.

The rate is not limited: chunks go through pipes by `splice(2)`, so no byte is copied, and as many as arrive within
the delay are on their way at a time. TCP's own control loop does not see the delay, as it would on a long cable: each
half of a connection has the round trip of one machine.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import socket
import struct
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass

CHUNK = 1 << 20
MOST_CHUNKS = 256
"""Chunks on their way in one direction: at a megabyte each more than any delay here holds."""

_F_SETPIPE_SZ = 1031
FIRST_PIPE = 1024
_SO_ORIGINAL_DST = 80
_PR_SET_TIMERSLACK = 29


@dataclass(frozen=True)
class _Pipe:
    read: int
    write: int

    @classmethod
    def make(cls) -> _Pipe:
        read, write = map(_out_of_the_way, os.pipe())
        fcntl.fcntl(write, _F_SETPIPE_SZ, CHUNK)
        return cls(read, write)


def _out_of_the_way(descriptor: int) -> int:
    """Give a pipe's end a high number, where that is allowed: `select` takes low ones only, and sockets need those."""
    try:
        moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, FIRST_PIPE)
    except OSError:
        return descriptor
    os.close(descriptor)
    return moved


class _Direction:
    """One direction of one connection: holds what it reads for `delay_s` before it writes it."""

    def __init__(self, source: socket.socket, target: socket.socket, delay_s: float) -> None:
        self._source = source
        self._target = target
        self._delay_s = delay_s
        self._held: deque[tuple[float, _Pipe, int]] = deque()
        self._free: list[_Pipe] = []

    def run(self) -> None:
        """Carry bytes until the source ends, then end the target's reading side."""
        _wake_promptly()
        try:
            while self._step():
                pass
            while self._held:
                time.sleep(max(0.0, self._held[0][0] - time.monotonic()))
                self._pass_on()
            self._target.shutdown(socket.SHUT_WR)
        except OSError:  # one side is gone: so is the connection
            _close(self._source, self._target)
        finally:
            for pipe in [*self._free, *(pipe for _, pipe, _ in self._held)]:
                os.close(pipe.read)
                os.close(pipe.write)

    def _step(self) -> bool:
        """Pass on what is due, or read what comes before that; say whether there may be more."""
        wait_s = self._held[0][0] - time.monotonic() if self._held else None
        if wait_s is not None and wait_s <= 0:
            self._pass_on()
            return True
        sources = [self._source] if len(self._held) < MOST_CHUNKS else []
        readable, _, _ = select.select(sources, [], [], wait_s)
        return self._read() if readable else True

    def _read(self) -> bool:
        pipe = self._free.pop() if self._free else _Pipe.make()
        count = os.splice(self._source.fileno(), pipe.write, CHUNK)
        if count == 0:
            self._free.append(pipe)
            return False
        self._held.append((time.monotonic() + self._delay_s, pipe, count))
        return True

    def _pass_on(self) -> None:
        _, pipe, count = self._held[0]
        while count:
            count -= os.splice(pipe.read, self._target.fileno(), count)
        self._held.popleft()
        self._free.append(pipe)


def _wake_promptly() -> None:
    """Let this thread's sleeps end within a microsecond instead of Linux's 50."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)


def _meant(connection: socket.socket) -> int:
    """Return the port that a redirected connection was made to."""
    address = connection.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, 16)
    return int(struct.unpack_from("!HH", address)[1])


def _close(*sockets: socket.socket) -> None:
    for each in sockets:
        try:
            each.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue


def _serve(connection: socket.socket, delay_s: float) -> None:
    time.sleep(delay_s)  # the handshake's way there
    with connection:
        try:
            onward = socket.create_connection(("127.0.0.1", _meant(connection)))
        except OSError:
            return
        with onward:
            for each in (connection, onward):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            back = threading.Thread(target=_Direction(onward, connection, delay_s).run, daemon=True)
            back.start()
            _Direction(connection, onward, delay_s).run()
            back.join()


def main(delay_s: float) -> None:
    """Accept connections for ever."""
    with socket.create_server(("0.0.0.0", 0), backlog=512) as listener:
        sys.stdout.write(f"ready {listener.getsockname()[1]}\n")
        sys.stdout.flush()
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_serve, args=(connection, delay_s), daemon=True).start()


if __name__ == "__main__":
    main(float(sys.argv[1]))
