"""Leases: a session lives while its client renews its lease. Pure bookkeeping; time is passed in.

A thousand clients renew theirs every second, so nothing here looks through all leases for that.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from dynamo_genie.runtime.wire import messages as m


@dataclass
class Lease:
    """One admitted session: whose it is, on which device, where its client is heard from, until when it lasts.

    `welcome` answered its `Hello` on the connection `asked_by`, and does so again if that is repeated.
    """

    session: bytes
    tenant: str
    device: int
    client: str
    peer: bytes
    expires: float
    welcome: m.Welcome
    asked_by: bytes


class Leases:
    """The sessions of all tenants, found by session, tenant and device, or expiry."""

    def __init__(self, duration_s: float) -> None:
        self.duration_s = duration_s
        self._leases: dict[bytes, Lease] = {}  # in the order in which they end, for all last equally long
        self._granted: dict[tuple[bytes, int], Lease] = {}
        self._counts: Counter[tuple[str, int]] = Counter()

    def grant(self, welcome: m.Welcome, tenant: str, device: int, client: str, peer: bytes, now: float) -> None:
        """Start the lease of a new session."""
        lease = Lease(welcome.session, tenant, device, client, peer, now + self.duration_s, welcome, peer)
        self._leases[welcome.session] = lease
        self._granted[peer, welcome.request_id] = lease
        self._counts[tenant, device] += 1

    def granted(self, peer: bytes, request_id: int) -> Lease | None:
        """Return the lease that a connection's request was granted."""
        return self._granted.get((peer, request_id))

    def renew(self, session: bytes, tenant: str, peer: bytes, now: float) -> bool:
        """Extend a lease; false if there is none of this tenant. Remembers where the client is now."""
        lease = self._leases.get(session)
        if lease is None or lease.tenant != tenant:
            return False
        lease.expires, lease.peer = now + self.duration_s, peer
        self._leases[session] = self._leases.pop(session)
        return True

    def end(self, session: bytes, tenant: str) -> Lease | None:
        """End one lease of this tenant, and return it if there was one."""
        lease = self._leases.get(session)
        return self._drop(lease) if lease is not None and lease.tenant == tenant else None

    def end_all(self, tenant: str, device: int) -> list[Lease]:
        """End all leases of a tenant on a device and return them."""
        ending = [lease for lease in self._leases.values() if (lease.tenant, lease.device) == (tenant, device)]
        return [self._drop(lease) for lease in ending]

    def end_expired(self, now: float) -> list[Lease]:
        """End the leases that were not renewed in time and return them."""
        expired: list[Lease] = []
        while self._leases and (first := next(iter(self._leases.values()))).expires <= now:
            expired.append(self._drop(first))
        return expired

    def count(self, tenant: str, device: int) -> int:
        """Return how many sessions a tenant has on a device."""
        return self._counts[tenant, device]

    def next_expiry(self) -> float | None:
        """Return when the next lease ends unless it is renewed."""
        return next((lease.expires for lease in self._leases.values()), None)

    def _drop(self, lease: Lease) -> Lease:
        del self._leases[lease.session]
        asked = (lease.asked_by, lease.welcome.request_id)
        if self._granted.get(asked) is lease:
            del self._granted[asked]
        place = (lease.tenant, lease.device)
        self._counts[place] -= 1
        if not self._counts[place]:
            del self._counts[place]
        return lease
