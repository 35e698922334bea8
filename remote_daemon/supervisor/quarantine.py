"""Programs that end workers: counted by tenant and digest, and run no more after the third time. Pure."""

from __future__ import annotations

from collections import OrderedDict

DEATHS = 3
WITHIN_S = 3600.0
MAX_SUSPECTS = 4096


class Quarantine:
    """The programs that were running when a worker died. What is in quarantine stays there while the daemon runs."""

    def __init__(self) -> None:
        self._deaths: OrderedDict[tuple[str, bytes], list[float]] = OrderedDict()
        self._programs: dict[str, list[bytes]] = {}

    def died(self, tenant: str, digest: bytes, now: float) -> bool:
        """Note that a worker of `tenant` died while it ran this program; return whether it is in quarantine now."""
        if digest in self.of(tenant):
            return True
        times = self._deaths.pop((tenant, digest), [])
        times = [time for time in times if now - time < WITHIN_S] + [now]
        if len(times) >= DEATHS:
            self._programs.setdefault(tenant, []).append(digest)
            return True
        self._deaths[tenant, digest] = times
        if len(self._deaths) > MAX_SUSPECTS:
            self._deaths.popitem(last=False)
        return False

    def of(self, tenant: str) -> tuple[bytes, ...]:
        """Return the programs that workers of `tenant` must refuse."""
        return tuple(self._programs.get(tenant, ()))
