"""The daemons that one compiled function may use: their sessions, and what placement must know of the machines."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import permutations
from weakref import WeakKeyDictionary

from dynamo_genie.connections.connection import Connection
from dynamo_genie.options import LinkSpeed
from dynamo_genie.passes.placement.topology import CLIENT, Device, Link, Topology
from dynamo_genie.runtime.attachment.attachment import Attachment
from dynamo_genie.runtime.session.peer_mesh import PeerMesh
from dynamo_genie.runtime.session.session import Session

HEADROOM = 0.1
"""The part of a device's limit that placement leaves to results, to what is on its way, and to growing caches."""

UNKNOWN_FLOPS_PER_S = 50e9
UNKNOWN_BYTES_PER_S = 10e9
"""What a device is taken for that says nothing of its speed: a core or two of a server."""


class Fleet:
    """Connections in the order in which the user named the daemons, and the links between all ends.

    Links are measured once, when they are first asked for, except those whose speed was given.
    """

    def __init__(self, connections: Sequence[Connection], mesh: PeerMesh, given: Sequence[LinkSpeed]) -> None:
        self.connections = tuple(connections)
        self.mesh = mesh
        self._by_endpoint = {connection.endpoint: connection for connection in connections}
        self._given = tuple(given)
        self._certificates: WeakKeyDictionary[Attachment, dict[str, bool]] = WeakKeyDictionary()

    def certificates(self, session: Session) -> dict[str, bool]:
        """Return what is known of the kernels of a session's worker: whether pieces give the bits of the whole."""
        return self._certificates.setdefault(session.attachment, {})

    @property
    def alive(self) -> bool:
        """Whether every session can be used; a fleet that lost one is made anew."""
        return all(connection.alive for connection in self.connections)

    def connection(self, device: str) -> Connection:
        """Return the connection to a device of the topology."""
        return self._by_endpoint[device]

    def endpoint_of(self, session: Session) -> str | None:
        """Return the name of the device on which a session lives; None for a session of another fleet."""
        return next((c.endpoint for c in self.connections if c.session is session), None)

    @property
    def sessions(self) -> tuple[Session, ...]:
        """The sessions, in the order of the daemons."""
        return tuple(connection.session for connection in self.connections)

    @cached_property
    def links(self) -> tuple[Link, ...]:
        """The links between all ends."""
        with locked(self.sessions):
            return tuple(self._measure(self._given))

    def open_link(self, source: str, target: str) -> None:
        """Open the way from one device to another, so that no call has to."""
        self.mesh.link(self.connection(source).session, self.connection(target).session)

    def topology(self, counted_twice: Mapping[str, int]) -> Topology:
        """Return devices and links as they are now; one round trip a daemon.

        Args:
            counted_twice: For each device, bytes in use there that the graph brings into its own account.
        """
        return Topology(tuple(self._device(c, counted_twice.get(c.endpoint, 0)) for c in self.connections), self.links)

    def _device(self, connection: Connection, own_nbytes: int) -> Device:
        connection.weights.sweep()
        connection.session.flush()  # what died is given back before the daemon is asked what is left
        state, info = connection.session.inspect(), connection.session.device
        free = state.memory_limit - state.memory_used + state.memory_reclaimable
        free = max(0, free - int(HEADROOM * state.memory_limit))
        speeds = info.flops_per_s or UNKNOWN_FLOPS_PER_S, info.bytes_per_s or UNKNOWN_BYTES_PER_S
        return Device(connection.endpoint, free + own_nbytes, *speeds)

    def _measure(self, given: Sequence[LinkSpeed]) -> Iterator[Link]:
        speeds = {speed.ends: (speed.latency_s, speed.bytes_per_s) for speed in given}
        for connection in self.connections:
            end, session = connection.endpoint, connection.session
            latency_s, bytes_per_s = speeds.get(frozenset({CLIENT, end})) or session.measure_link()
            yield Link(CLIENT, end, latency_s, bytes_per_s)
            yield Link(end, CLIENT, latency_s, bytes_per_s)
        for source, target in permutations(self.connections, 2):
            ends = frozenset({source.endpoint, target.endpoint})
            latency_s, bytes_per_s = speeds.get(ends) or self.mesh.measure(source.session, target.session)
            yield Link(source.endpoint, target.endpoint, latency_s, bytes_per_s)


@contextmanager
def locked(sessions: Collection[Session]) -> Iterator[None]:
    """Hold the locks of several sessions."""
    everyone = tuple(set(sessions))
    _lock(everyone)
    try:
        yield
    finally:
        for session in everyone:
            session.lock.release()


@contextmanager
def released(sessions: Collection[Session]) -> Iterator[None]:
    """Let other threads have the sessions that `locked` holds, until this is over."""
    everyone = tuple(set(sessions))
    for session in everyone:
        session.lock.release()
    try:
        yield
    finally:
        _lock(everyone)


def _lock(sessions: Collection[Session]) -> None:
    """Take all locks; wait for one only with empty hands, since whoever has that one may need any of the others."""
    missing = deque(sessions)
    while missing:
        missing[0].lock.acquire()
        taken = [missing[0]]
        for session in list(missing)[1:]:
            if session.lock.acquire(blocking=False):
                taken.append(session)
                continue
            for each in taken:
                each.lock.release()
            missing.remove(session)
            missing.appendleft(session)
            break
        else:
            return
