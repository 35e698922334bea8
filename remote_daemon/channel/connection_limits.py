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
    """The connections of a socket, counted. `came` and `proved` return why one must go, empty where it may stay."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._unproven: Counter[str] = Counter()
        self._clients: Counter[str] = Counter()
        self._total = 0

    def came(self, host: str) -> str:
        """Count a new connection from `host`."""
        self._total += 1
        self._unproven[host] += 1
        if self._total > self._limits.total:
            return f"{self._limits.total} connections are open already, as many as descriptors allow"
        if self._unproven[host] > self._limits.unproven_per_address:
            return f"{self._limits.unproven_per_address} connections of this address have proven nothing yet"
        return ""

    def proved(self, host: str, client: str) -> str:
        """Count a connection from `host` as one of `client` from now on."""
        _decrement(self._unproven, host)
        self._clients[client] += 1
        most = self._limits.per_client
        return f"this client has {most} connections already" if self._clients[client] > most else ""

    def left(self, host: str, client: str | None) -> None:
        """Count one less; `client` is None where it proved nothing."""
        self._total -= 1
        if client is None:
            _decrement(self._unproven, host)
        else:
            _decrement(self._clients, client)


def _decrement(counts: Counter[str], name: str) -> None:
    counts[name] -= 1
    if counts[name] <= 0:
        del counts[name]


def raise_descriptor_limit() -> None:
    """Let this process, and those that it starts, have as many descriptors as the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
