"""Client sockets with every setting that keeps a dead peer from going unnoticed. Knows nothing of messages."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

import zmq

from dynamo_genie.errors import OptionError, SessionLost
from dynamo_genie.runtime.attachment.liveness import Liveness
from dynamo_genie.runtime.wire.key_file import ClientKeys
from dynamo_genie.runtime.wire.limits import HANDSHAKE_MS, KEEPALIVE_COUNT, KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S

RECONNECT_MS = 100
RECONNECT_MAX_MS = 1_000
CONNECT_MS = 1_000
"""Where nothing answers a connect, it is tried anew: the kernel's own next try comes ever later."""

Dealer = zmq.Socket[bytes]

_ENDPOINT = re.compile(r"tcp://(\[[0-9a-fA-F:.]+\]|[^\[\]:/\s*]+):\d{1,5}|ipc:///.+")


def check_endpoint(endpoint: str) -> str:
    """Return `endpoint` if a client can connect to it, or raise `OptionError` with the forms there are."""
    if not _ENDPOINT.fullmatch(endpoint):
        raise OptionError(f"{endpoint!r} is no endpoint; write tcp://HOST:PORT or ipc:///PATH")
    if endpoint.startswith("tcp://") and not 0 < int(endpoint.rpartition(":")[2]) <= 65_535:
        raise OptionError(f"{endpoint!r} names a port that does not exist; ports are 1 to 65535")
    return endpoint


def split_device(endpoint: str) -> tuple[str, int]:
    """Return where to connect for `ENDPOINT#N`, and which device of that daemon is meant; without `#N` the first."""
    address, mark, device = endpoint.rpartition("#")
    return (address, int(device)) if mark and device.isdecimal() else (endpoint, 0)


def connect_dealer(
    context: zmq.Context[Dealer],
    endpoint: str,
    *,
    keys: ClientKeys | None,
    max_frame_nbytes: int,
    high_water: int = 1_000,
    timeout_ms: int = 10_000,
    before_connect: Callable[[Dealer], None] | None = None,
) -> Dealer:
    """Return a DEALER socket that connects to `endpoint` in the background, again whenever it is cut off.

    Args:
        keys: The client's pair and the daemon's public key; None talks to a daemon without keys.
        max_frame_nbytes: A daemon that sends a larger frame is cut off.
        high_water: How many messages may queue each way before a send waits.
        timeout_ms: Limit of one send or receive on this socket.
        before_connect: Called with the socket before anything happens on it; a monitor attached here misses nothing.
    """
    check_endpoint(endpoint)
    socket = context.socket(zmq.DEALER)
    try:
        _configure(socket, endpoint, max_frame_nbytes, high_water, timeout_ms)
        if keys is not None:
            _use_curve(socket, keys)
        if before_connect is not None:
            before_connect(socket)
        socket.connect(endpoint)
        return socket
    except BaseException:
        socket.close(linger=0)
        raise


def _configure(socket: Dealer, endpoint: str, max_frame_nbytes: int, high_water: int, timeout_ms: int) -> None:
    settings = {
        zmq.MAXMSGSIZE: max_frame_nbytes,
        zmq.HANDSHAKE_IVL: HANDSHAKE_MS,
        zmq.TCP_KEEPALIVE: 1,
        zmq.TCP_KEEPALIVE_IDLE: KEEPALIVE_IDLE_S,
        zmq.TCP_KEEPALIVE_INTVL: KEEPALIVE_INTERVAL_S,
        zmq.TCP_KEEPALIVE_CNT: KEEPALIVE_COUNT,
        zmq.CONNECT_TIMEOUT: CONNECT_MS,
        zmq.RECONNECT_IVL: RECONNECT_MS,
        zmq.RECONNECT_IVL_MAX: RECONNECT_MAX_MS,
        zmq.LINGER: 0,
        zmq.SNDHWM: high_water,
        zmq.RCVHWM: high_water,
        zmq.RCVTIMEO: timeout_ms,
        zmq.SNDTIMEO: timeout_ms,
    }
    for option, value in settings.items():
        socket.setsockopt(option, value)
    if endpoint.startswith("tcp://["):
        socket.setsockopt(zmq.IPV6, 1)


def _use_curve(socket: Dealer, keys: ClientKeys) -> None:
    socket.curve_publickey = keys.public.encode()
    socket.curve_secretkey = keys.secret.encode()
    socket.curve_serverkey = keys.server_public.encode()


def reached_through(endpoint: str, dialled: str) -> str:
    """Return a worker's endpoint as this client must dial it: on the host by which it reached the daemon.

    The worker lives on the supervisor's machine but knows that machine by another name, or as 0.0.0.0.
    """
    if not (endpoint.startswith("tcp://") and dialled.startswith("tcp://")):
        return endpoint
    host = urlsplit(dialled).netloc.rpartition(":")[0]
    return f"tcp://{host}:{endpoint.rpartition(':')[2]}"


class DealerTransport:
    """DEALER sockets to one endpoint, one after the other, as a session's transport."""

    def __init__(self, open_socket: Callable[[Callable[[Dealer], None]], Dealer], liveness: Liveness) -> None:
        """Connect.

        Args:
            open_socket: Returns a new socket, and gives it to the function that it is given before it connects.
            liveness: Says when all ways to the worker are silent.
        """
        self._open_socket = open_socket
        self._liveness = liveness
        self._connect()

    def _connect(self) -> None:
        self._silences = self._liveness.silences
        self._cut = False
        self._socket = self._open_socket(self._watch)

    def _watch(self, socket: Dealer) -> None:
        self._monitor: Dealer = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)

    @property
    def interrupted(self) -> bool:
        """Whether the connection was cut since it was made, or everything has been silent since."""
        if not self._cut and (self._monitor.closed or self._monitor.poll(0)):
            self._cut = True
        return self._cut or self._liveness.silences != self._silences

    def renew(self) -> None:
        """Connect anew with a socket of its own: the last one keeps what was on its way, and repeats it."""
        self.close()
        self._connect()

    def send(self, message: bytes, body: memoryview | None = None, /) -> bool:
        """Hand a message and its body to the socket, the body without a copy; False when it takes none at present."""
        try:
            if body is None:
                self._socket.send(message)
            else:
                self._socket.send(message, zmq.SNDMORE)
                self._socket.send(body, copy=False)  # never refused: the high-water mark counts whole messages
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            raise SessionLost(f"the connection to the worker is closed: {error}") from None
        return True

    def receive(self) -> bytes | None:
        """Return the next message; None when none came within the socket's time-out."""
        try:
            return self._socket.recv()
        except zmq.Again:
            return None
        except zmq.ZMQError as error:
            raise SessionLost(f"the connection to the worker is closed: {error}") from None

    def receive_body(self, room: memoryview | None = None, /) -> int:
        """Receive the body of the message received last; -1 when it has none."""
        if not self._socket.rcvmore:
            return -1
        return len(self._socket.recv()) if room is None else self._socket.recv_into(room)

    def close(self) -> None:
        """Close the socket; what it still had to send is lost."""
        if not self._socket.closed:
            self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=0)
