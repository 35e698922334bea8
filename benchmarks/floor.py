"""The floor of the transport: bare pyzmq in a process of its own, with nothing of ours in between.

`python -m dynamo_genie.bench.floor ENDPOINT echo|sink PARENT` prints `ready ENDPOINT`, then serves until it is ended
or its parent, with this process id, is gone:
`echo` decodes and encodes each msgpack message and sends it back; `sink` receives uploads, answering each when whole.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

import msgspec
import zmq

from dynamo_genie.bench.daemon import started
from dynamo_genie.remote_daemon.channel.parent import die_with_parent

FRAME_NBYTES = 1 << 20
HIGH_WATER = 32
TIMEOUT_MS = 60_000
START_LIMIT_S = 60.0


@contextlib.contextmanager
def floor_peer(context: zmq.Context[zmq.Socket[bytes]], listen: str, what: str) -> Iterator[zmq.Socket[bytes]]:
    """Start a peer in another process and yield a DEALER socket that is connected to it."""
    command = [sys.executable, "-m", "dynamo_genie.bench.floor", listen, what, str(os.getpid())]
    with started(command, f"the bare {what} peer", START_LIMIT_S) as endpoint:
        socket = context.socket(zmq.DEALER)
        try:
            socket.setsockopt(zmq.SNDHWM, HIGH_WATER)
            socket.sndtimeo = socket.rcvtimeo = TIMEOUT_MS
            socket.connect(endpoint)
            yield socket
        finally:
            socket.close(linger=0)


def echo_once(socket: zmq.Socket[bytes], message: object) -> None:
    """Send a message as msgpack and decode what comes back."""
    socket.send(msgspec.msgpack.encode(message))
    msgspec.msgpack.decode(socket.recv())


def upload_once(socket: zmq.Socket[bytes], view: memoryview, *, fresh: bool) -> None:
    """Send bytes in frames without copies and wait until all are there, in fresh memory or in what is in use."""
    socket.send(msgspec.msgpack.encode([view.nbytes, fresh]))
    for offset in range(0, view.nbytes, FRAME_NBYTES):
        socket.send(view[offset : offset + FRAME_NBYTES], copy=False)
    socket.recv()


def _serve_echo(socket: zmq.Socket[bytes]) -> None:
    while True:
        identity, data = socket.recv_multipart()
        socket.send_multipart([identity, msgspec.msgpack.encode(msgspec.msgpack.decode(data))])


def _serve_sink(socket: zmq.Socket[bytes]) -> None:
    import torch

    memory = torch.empty(0, dtype=torch.uint8)
    while True:
        identity, data = socket.recv_multipart()
        nbytes, fresh = msgspec.msgpack.decode(data)
        if fresh or memory.numel() != nbytes:
            memory = torch.empty(0, dtype=torch.uint8)  # the old one goes first, so that one is there at a time
            memory = torch.empty(nbytes, dtype=torch.uint8)
        view = memory.numpy().data
        for offset in range(0, nbytes, FRAME_NBYTES):
            socket.recv()
            socket.recv_into(view[offset : offset + FRAME_NBYTES])
        socket.send_multipart([identity, b"whole"])


def main() -> None:
    """Serve one of the two until ended."""
    listen, what, parent_pid = sys.argv[1:]
    die_with_parent(int(parent_pid))
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.setsockopt(zmq.RCVHWM, HIGH_WATER)  # SNDHWM stays large: a ROUTER drops what does not fit
    socket.bind(listen)
    print("ready", socket.getsockopt_string(zmq.LAST_ENDPOINT), flush=True)  # the other side reads it
    {"echo": _serve_echo, "sink": _serve_sink}[what](socket)


if __name__ == "__main__":
    main()
