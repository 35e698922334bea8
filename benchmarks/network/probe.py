"""Measures a link: round trip of small messages and rate of one TCP stream, with plain sockets.

`python -m dynamo_genie.bench.network.probe serve` prints `ready PORT` and serves one client after the other; `python
-m dynamo_genie.bench.network.probe ADDRESS PORT` prints the median round trip in seconds and the rate in bits/s.
"""

from __future__ import annotations

import socket
import statistics
import sys
import time

ROUNDS = 200
BULK_S = 0.7
WARM_S = 0.2
LIMIT_S = 30.0
_BLOCK = 1 << 20


def serve() -> None:
    """Echo the messages of a client, then count what it sends until it says no more, and tell it how much that was."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sys.stdout.write(f"ready {listener.getsockname()[1]}\n")
        sys.stdout.flush()
        while True:
            connection, _ = listener.accept()
            with connection:
                _answer(connection)


def _answer(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(ROUNDS):
        connection.sendall(_receive(connection, 64))
    memory = memoryview(bytearray(_BLOCK))
    received, marks = 0, []
    while count := connection.recv_into(memory):
        received += count
        marks.append((time.perf_counter(), received))
    steady = [mark for mark in marks if mark[0] - marks[0][0] >= WARM_S]
    (start, before), (end, after) = steady[0], steady[-1]
    connection.sendall(f"{(after - before) * 8 / (end - start)}\n".encode())


def measure(address: str, port: int) -> tuple[float, float]:
    """Return the median round trip of 64 bytes, in seconds, and the rate of a stream there, in bits a second."""
    with socket.create_connection((address, port), timeout=LIMIT_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        trips = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            connection.sendall(bytes(64))
            _receive(connection, 64)
            trips.append(time.perf_counter() - start)
        block, end = bytes(_BLOCK), time.perf_counter() + BULK_S
        while time.perf_counter() < end:
            connection.sendall(block)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(64):
            answer += piece
    return statistics.median(trips), float(answer)


def _receive(connection: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        piece = connection.recv(count - len(found))
        if not piece:
            raise ConnectionError("the other end of the link is gone")
        found += piece
    return found


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        sys.stdout.write("{} {}\n".format(*measure(sys.argv[1], int(sys.argv[2]))))
