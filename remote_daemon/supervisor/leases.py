"""Leases: a session lives while its client renews its lease. Pure bookkeeping; time is passed in."""

from __future__ import annotations

from dataclasses import dataclass

from dynamo_genie.runtime.wire import messages as m


@dataclass
class Lease:
    """One admitted session: whose it is, on which device, where its client is heard from, until when it lasts.

    `welcome` answered its `Hello`, and does so again if that is repeated.
    """

    session: bytes
    tenant: str
    device: int
    client: str
    peer: bytes
    expires: float
    welcome: m.Welcome


class Leases:
    """The sessions of all tenants, found by session, tenant and device, or expiry."""

    def __init__(self, duration_s: float) -> None:
        self.duration_s = duration_s
        self._leases: dict[bytes, Lease] = {}

    def grant(self, welcome: m.Welcome, tenant: str, device: int, client: str, peer: bytes, now: float) -> None:
        """Start the lease of a new session."""
        expires = now + self.duration_s
        self._leases[welcome.session] = Lease(welcome.session, tenant, device, client, peer, expires, welcome)

    def granted(self, peer: bytes, request_id: int) -> Lease | None:
        """Return the lease that a connection's request was granted."""
        for lease in self._leases.values():
            if (lease.peer, lease.welcome.request_id) == (peer, request_id):
                return lease
        return None

    def renew(self, session: bytes, tenant: str, peer: bytes, now: float) -> bool:
        """Extend a lease; false if there is none of this tenant. Remembers where the client is now."""
        lease = self._leases.get(session)
        if lease is None or lease.tenant != tenant:
            return False
        lease.expires, lease.peer = now + self.duration_s, peer
        return True

    def end(self, session: bytes, tenant: str) -> Lease | None:
        """End one lease of this tenant, and return it if there was one."""
        lease = self._leases.get(session)
        return self._leases.pop(session) if lease is not None and lease.tenant == tenant else None

    def end_all(self, tenant: str, device: int) -> list[Lease]:
        """End all leases of a tenant on a device and return them."""
        return [self._leases.pop(lease.session) for lease in self._of(tenant, device)]

    def end_expired(self, now: float) -> list[Lease]:
        """End the leases that were not renewed in time and return them."""
        expired = [lease for lease in self._leases.values() if lease.expires <= now]
        return [self._leases.pop(lease.session) for lease in expired]

    def count(self, tenant: str, device: int) -> int:
        """Return how many sessions a tenant has on a device."""
        return len(self._of(tenant, device))

    def next_expiry(self) -> float | None:
        """Return when the next lease ends unless it is renewed."""
        return min((lease.expires for lease in self._leases.values()), default=None)

    def _of(self, tenant: str, device: int) -> list[Lease]:
        return [lease for lease in self._leases.values() if (lease.tenant, lease.device) == (tenant, device)]
