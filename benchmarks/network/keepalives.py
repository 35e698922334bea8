"""Bytes that keep connections alive, found among the small packets of this host: no call moves them.

A decode step may move less than what a lease moves meanwhile, so that an average of an idle time would not do: each
is looked at. Leases are told by the port of the daemon's supervisor. (What the kernel asks a silent connection has no
payload.)
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Collection

SMALL_NBYTES = 256
"""Payload of the packets that are looked at; the messages of a lease have less."""

_ETH_P_ALL, _ETH_P_IP = 0x0003, 0x0800
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
_HEADERS = 52
_BUFFER_NBYTES = 32 << 20


class KeepAlives:
    """Listens to the interfaces of this process's network namespace; needs root."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_NBYTES)
        self._socket.setblocking(False)
        _attach_filter(self._socket)

    def take(self, lease_ports: Collection[int]) -> int:
        """Return the payload bytes of leases since the last call.

        Args:
            lease_ports: Ports of supervisors: all that small packets carry from and to them is a lease's.
        """
        found = 0
        while True:
            try:
                packet, (interface, *_) = self._socket.recvfrom(_HEADERS + SMALL_NBYTES)
            except BlockingIOError:
                return found
            if interface != "lo":
                found += keep_alive_nbytes(packet, lease_ports)

    def close(self) -> None:
        """Listen no longer."""
        self._socket.close()


def keep_alive_nbytes(packet: bytes, lease_ports: Collection[int]) -> int:
    """Return how many bytes of an IPv4 packet's TCP payload keep a connection alive."""
    start = 4 * (packet[0] & 0x0F)
    if packet[9] != socket.IPPROTO_TCP:
        return 0
    source, target = struct.unpack_from("!HH", packet, start)
    if source not in lease_ports and target not in lease_ports:
        return 0
    return len(packet[start + 4 * (packet[start + 12] >> 4) : struct.unpack_from("!H", packet, 2)[0]])


def _attach_filter(packets: socket.socket) -> None:
    """Let the kernel pass small IPv4 packets with a payload only: a classic BPF program."""
    program = (
        (0x28, 0, 0, 0xFFFFF000),  # load the protocol of the frame
        (0x15, 0, 4, _ETH_P_IP),
        (0x28, 0, 0, 2),  # load the length of the packet
        (0x25, 2, 0, _HEADERS + SMALL_NBYTES),
        (0x25, 0, 1, _HEADERS),
        (0x06, 0, 0, 0xFFFF),  # take it
        (0x06, 0, 0, 0),  # or not
    )
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code)
    described = struct.pack("HP", len(program), ctypes.addressof(buffer))
    packets.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)
