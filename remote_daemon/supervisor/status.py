"""Status queries: the workers' reports for `genie status`; one too busy to answer is shown as it is known."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from dynamo_genie.remote_daemon.supervisor.events import WorkerId
from dynamo_genie.remote_daemon.supervisor.tenants import Tenant
from dynamo_genie.runtime.wire import messages as m

STATUS_WAIT_S = 1.0


@dataclass
class StatusQuery:
    """One client's question, with the answers that have come so far."""

    peer: bytes
    request_id: int
    deadline: float
    tenants: tuple[Tenant, ...]
    awaited: set[WorkerId]
    reports: dict[WorkerId, m.WorkerStatus] = field(default_factory=dict)

    def add(self, worker: WorkerId, status: m.WorkerStatus) -> None:
        """Take a worker's answer."""
        self.awaited.discard(worker)
        self.reports[worker] = status

    def workers(self, names: dict[str, str]) -> tuple[m.WorkerStatus, ...]:
        """Return one status a tenant, named by `names`."""
        return tuple(self._status(tenant, names[tenant.key]) for tenant in self.tenants)

    def _status(self, tenant: Tenant, name: str) -> m.WorkerStatus:
        report = self.reports.get(tenant.worker) if tenant.worker is not None else None
        if report is None:
            return known_status(tenant, name, busy=tenant.worker in self.awaited)
        return msgspec.structs.replace(report, tenant=name, pid=tenant.pid)


def known_status(tenant: Tenant, name: str, *, busy: bool) -> m.WorkerStatus:
    """Return what the supervisor itself knows of a worker."""
    device = tenant.ready.device if tenant.ready else m.DeviceInfo("", "", 0, "")
    state = "busy" if busy else tenant.state
    return m.WorkerStatus(name, tenant.pid, state, device.name, device.memory_limit, 0, 0, 0, 0, ())
