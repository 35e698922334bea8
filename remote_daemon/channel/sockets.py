"""Sockets with every setting that one open to strangers needs. Knows nothing of messages."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import zmq

from dynamo_genie.errors import DaemonUnavailable, OptionError
from dynamo_genie.remote_daemon.channel.auth import ZAP_DOMAIN
from dynamo_genie.remote_daemon.channel.policy import IpcAddress, TcpAddress, parse_endpoint, require_keys_off_loopback
from dynamo_genie.runtime.wire.key_file import ServerKeyPair
from dynamo_genie.runtime.wire.limits import HANDSHAKE_MS, KEEPALIVE_COUNT, KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S
from dynamo_genie.runtime.wire.messages import PeerKeys

BACKLOG = 128
SEND_HIGH_WATER = 1_000  # credits bound what is sent; a full queue would drop an answer

RECONNECT_MS = 50
RECONNECT_MAX_MS = 2_000

Socket: TypeAlias = "zmq.Socket[bytes]"

KEEPALIVE: Mapping[int, int] = MappingProxyType(
    {
        zmq.TCP_KEEPALIVE: 1,
        zmq.TCP_KEEPALIVE_IDLE: KEEPALIVE_IDLE_S,
        zmq.TCP_KEEPALIVE_INTVL: KEEPALIVE_INTERVAL_S,
        zmq.TCP_KEEPALIVE_CNT: KEEPALIVE_COUNT,
    }
)
"""The kernel ends a connection whose other side has been gone for 12 s; ZeroMQ's heartbeats can abort a server."""

LINK_SETTINGS: Mapping[int, int] = MappingProxyType(
    {
        zmq.MAXMSGSIZE: 1 << 16,  # the other side answers with credits and complaints only
        zmq.HANDSHAKE_IVL: HANDSHAKE_MS,
        **KEEPALIVE,
        zmq.RECONNECT_IVL: RECONNECT_MS,  # its key may be admitted a moment after it comes
        zmq.RECONNECT_IVL_MAX: RECONNECT_MAX_MS,
        zmq.LINGER: 0,
        zmq.SNDHWM: SEND_HIGH_WATER,
        zmq.RCVHWM: SEND_HIGH_WATER,
    }
)


def bind_router(
    context: zmq.Context[zmq.Socket[bytes]],
    endpoint: str,
    *,
    max_frame_nbytes: int,
    curve: ServerKeyPair | None,
    ports: tuple[int, int] | None = None,
    zap_domain: bytes = ZAP_DOMAIN,
) -> tuple[Socket, str]:
    """Bind a ROUTER socket and return it with the endpoint that it really has.

    With `curve`, an `Authenticator` must serve `context` already: handshakes fail where none answers. What waits to be
    read is not bounded by the socket: a `ConnectionGuard` must watch it.

    Args:
        endpoint: Where to listen; without keys this must be loopback or ipc.
        max_frame_nbytes: A peer that sends a larger frame is cut off.
        curve: The daemon's pair; None serves without keys.
        ports: First and last port to try when `endpoint` leaves the port open (`*`).
        zap_domain: Under which name the authenticator judges who connects.
    """
    address = parse_endpoint(endpoint)
    require_keys_off_loopback(address, has_keys=curve is not None)
    socket = context.socket(zmq.ROUTER)
    try:
        _configure(socket, address, max_frame_nbytes)
        if curve is not None:
            _require_curve(socket, curve, zap_domain)
        _bind(socket, address, ports)
        return socket, socket.getsockopt_string(zmq.LAST_ENDPOINT)
    except BaseException:
        socket.close(linger=0)
        raise


def connect_link(context: zmq.Context[zmq.Socket[bytes]], endpoint: str, keys: PeerKeys | None) -> Socket:
    """Return a DEALER socket that connects to another worker's bulk endpoint in the background.

    Raises:
        OptionError: The endpoint names no place to connect to.
        DaemonUnavailable: The system refuses.
    """
    address = parse_endpoint(endpoint)
    if isinstance(address, TcpAddress) and not address.port:
        raise OptionError(f"{endpoint!r} names no port to connect to")
    try:
        socket = context.socket(zmq.DEALER)
    except zmq.ZMQError as error:
        raise DaemonUnavailable(f"no socket for a link to {endpoint}: {error}") from None
    try:
        _configure_link(socket, address, keys)
        socket.connect(address.endpoint())
        return socket
    except zmq.ZMQError as error:
        socket.close(linger=0)
        raise DaemonUnavailable(f"cannot connect to {endpoint}: {error}") from None


def _configure_link(socket: Socket, address: TcpAddress | IpcAddress, keys: PeerKeys | None) -> None:
    for option, value in LINK_SETTINGS.items():
        socket.setsockopt(option, value)
    if isinstance(address, TcpAddress) and address.host.startswith("["):
        socket.setsockopt(zmq.IPV6, 1)
    if keys is not None:
        socket.curve_serverkey = keys.server_public.encode()
        socket.curve_publickey = keys.public.encode()
        socket.curve_secretkey = keys.secret.encode()


def _configure(socket: Socket, address: TcpAddress | IpcAddress, max_frame_nbytes: int) -> None:
    settings = {
        zmq.MAXMSGSIZE: max_frame_nbytes,  # without it one raw peer makes the server buffer all it sends
        zmq.HANDSHAKE_IVL: HANDSHAKE_MS,
        zmq.ROUTER_MANDATORY: 1,
        zmq.ROUTER_HANDOVER: 0,  # a peer never takes over the routing id of another
        zmq.LINGER: 0,
        zmq.BACKLOG: BACKLOG,
        zmq.SNDHWM: SEND_HIGH_WATER,
        zmq.RCVHWM: 0,  # a bound stops libzmq from reading, and a PING or the end of that peer then aborts the process
        **KEEPALIVE,
    }
    for option, value in settings.items():
        socket.setsockopt(option, value)
    if isinstance(address, TcpAddress) and address.host.startswith("["):
        socket.setsockopt(zmq.IPV6, 1)


def _require_curve(socket: Socket, pair: ServerKeyPair, zap_domain: bytes) -> None:
    socket.curve_server = True
    socket.curve_publickey = pair.public.encode()
    socket.curve_secretkey = pair.secret.encode()
    socket.zap_domain = zap_domain
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # no authenticator: refuse, where the default is to admit


def _bind(socket: Socket, address: TcpAddress | IpcAddress, ports: tuple[int, int] | None) -> None:
    if isinstance(address, IpcAddress):
        _bind_ipc(socket, address)
    elif address.port or ports is None:
        _bind_first(socket, [address.endpoint()])
    else:
        _bind_first(socket, (address.endpoint(port) for port in range(ports[0], ports[1] + 1)))


def _bind_ipc(socket: Socket, address: IpcAddress) -> None:
    if os.path.lexists(address.path) and not stat.S_ISSOCK(os.lstat(address.path).st_mode):
        raise DaemonUnavailable(f"cannot listen on {address.endpoint()}: {address.path} exists and is no socket")
    before = os.umask(0o077)  # only the own user may connect
    try:
        _bind_first(socket, [address.endpoint()])
    finally:
        os.umask(before)


def _bind_first(socket: Socket, endpoints: Iterable[str]) -> None:
    reason, tried = "no port to try", []
    for endpoint in endpoints:
        try:
            socket.bind(endpoint)
            return
        except zmq.ZMQError as error:
            reason = error.strerror or str(error)
            tried.append(endpoint)
            if error.errno != errno.EADDRINUSE:
                break
    where = tried[0] if len(tried) == 1 else f"any of {tried[0]} ... {tried[-1]}" if tried else "an empty port range"
    raise DaemonUnavailable(f"cannot listen on {where}: {reason}")
