"""A session's commands about resident weights: which are here, keep one, name one."""

from __future__ import annotations

from dynamo_genie.errors import ProtocolError, QuotaExceeded
from dynamo_genie.remote_daemon.memory.weight_store import ResidentWeight, WeightStore
from dynamo_genie.remote_daemon.transfer.staging import Staging
from dynamo_genie.remote_daemon.worker.handle_table import HandleTable
from dynamo_genie.runtime.wire import messages as m


class SessionWeights:
    """Executes `QueryWeights`, `StoreWeight` and `AdoptWeight` of one session.

    What a session asked for or stored is `held` until it has had the time to name it.
    """

    def __init__(self, weights: WeightStore, staging: Staging, handles: HandleTable) -> None:
        self._weights = weights
        self._staging = staging
        self._handles = handles
        self.held: list[ResidentWeight] = []

    def query(self, command: m.QueryWeights) -> m.WeightsMissing:
        """Answer which contents are lacking; the others, and what is stored now, stay until the next query."""
        self.drop_held()
        missing = []
        for position, digest in enumerate(command.digests):
            weight = self._weights.hold(digest)
            if weight is None:
                missing.append(position)
            else:
                self.held.append(weight)
        return m.WeightsMissing(command.request_id, tuple(missing))

    def store(self, command: m.StoreWeight) -> None:
        """Keep an upload as a weight."""
        self._weights.store(command.digest, command.spec, self._staging.claim(command.upload))
        weight = self._weights.hold(command.digest)
        assert weight is not None
        self.held.append(weight)

    def adopt(self, command: m.AdoptWeight) -> None:
        """Let a handle name a weight."""
        weight = self._weights.acquire(command.digest, command.spec)
        try:
            self._handles.adopt(command.handle, weight)
        except (ProtocolError, QuotaExceeded):
            self._weights.drop(weight)
            raise

    def drop_held(self) -> None:
        """Drop the references to weights that were asked for or stored."""
        for weight in self.held:
            self._weights.drop(weight)
        self.held.clear()
