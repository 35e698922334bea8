"""How many connections a socket may have: of one address before they prove anything, of one client, and in all.

Pure bookkeeping. Descriptors are what a stranger can use up without a key, and a daemon without any serves nobody.
"""

from __future__ import annotations

import resource
from collections import Counter
from dataclasses import dataclass

RESERVED_DESCRIPTORS = 256
"""For workers' pipes, files, and the sockets' own needs."""

MAX_UNPROVEN = 1024


@dataclass(frozen=True)
class ConnectionLimits:
    """The limits of one socket. Who has proven a key, or sent a message where there are none, is a client."""

    unproven_per_address: int
    per_client: int
    total: int


def limits_for(max_sessions: int) -> ConnectionLimits:
    """Return the limits of a public endpoint, in proportion to the descriptors that this process may have."""
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    total = max(descriptors - RESERVED_DESCRIPTORS, descriptors // 2)
    return ConnectionLimits(min(MAX_UNPROVEN, total // 4), 2 * max_sessions + 64, total)


class Crowd:
    """The connections of a socket, by descriptor. Where there are too many, the one to cut is one that proved nothing.

    Of those it is the one that has had the longest time to: an admitted client needs some milliseconds, and so gets in
    while a stranger fills the place.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._unproven: dict[str, dict[int, None]] = {}  # by address, in the order in which they came
        self._clients: Counter[str] = Counter()
        self._total = 0

    def came(self, host: str, descriptor: int) -> None:
        """Count a new connection from `host`."""
        self._total += 1
        self._unproven.setdefault(host, {})[descriptor] = None

    def surplus(self, host: str) -> tuple[int, str] | None:
        """Return which connection must go now that one came from `host`, and why, if one must."""
        same = self._unproven.get(host, {})
        if len(same) > self._limits.unproven_per_address:
            most = self._limits.unproven_per_address
            return next(iter(same)), f"more than {most} connections of this address have proven nothing yet"
        if self._total > self._limits.total and self._unproven:
            crowded = max(self._unproven.values(), key=len)
            return next(iter(crowded)), f"more than {self._limits.total} connections are open, as many as there may be"
        return None

    def proved(self, host: str, descriptor: int, client: str) -> str:
        """Count a connection as one of `client` from now on; return why it must go, if it must."""
        self._drop_unproven(host, descriptor)
        self._clients[client] += 1
        most = self._limits.per_client
        return f"this client has {most} connections already" if self._clients[client] > most else ""

    def left(self, host: str, descriptor: int, client: str | None) -> None:
        """Count one less; `client` is None where it proved nothing."""
        self._total -= 1
        if client is None:
            self._drop_unproven(host, descriptor)
            return
        self._clients[client] -= 1
        if not self._clients[client]:
            del self._clients[client]

    def _drop_unproven(self, host: str, descriptor: int) -> None:
        same = self._unproven[host]
        del same[descriptor]
        if not same:
            del self._unproven[host]


def raise_descriptor_limit() -> None:
    """Let this process, and those that it starts, have as many descriptors as the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
