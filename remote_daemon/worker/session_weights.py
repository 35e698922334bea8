"""A session's commands about resident weights: which are here, keep one, name one; and about models in files."""

from __future__ import annotations

from dynamo_genie.errors import NotRecoverable, ProtocolError, QuotaExceeded
from dynamo_genie.remote_daemon.memory.weight_store import ResidentWeight, WeightStore
from dynamo_genie.remote_daemon.model_files.models import Models
from dynamo_genie.remote_daemon.transfer.staging import Staging
from dynamo_genie.remote_daemon.worker.handle_table import HandleTable
from dynamo_genie.runtime.wire import messages as m


class SessionWeights:
    """Executes `QueryWeights`, `StoreWeight`, `AdoptWeight` of one session, and its commands about models.

    What a session asked for or stored is `held` until it has had the time to name it.
    """

    def __init__(self, weights: WeightStore, staging: Staging, handles: HandleTable, models: Models) -> None:
        self._weights = weights
        self._staging = staging
        self._handles = handles
        self._models = models
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
        if command.viewed and not self._weights.has(command.digest):
            raise NotRecoverable(
                "a weight was not sent, because the daemon had it, and it is not there any more; move it to the device "
                "again"
            )
        self._name(command.handle, self._weights.acquire(command.digest, command.spec), viewed=command.viewed)

    def _name(self, handle: int, weight: ResidentWeight, *, viewed: bool) -> None:
        """Let a handle name a weight of which it is counted as a user."""
        try:
            self._handles.adopt(handle, weight, viewed=viewed)
        except (ProtocolError, QuotaExceeded):
            self._weights.drop(weight)
            raise

    # --- models --------------------------------------------------------------------------------------------

    def list_models(self, command: m.ListModels) -> m.ModelsListed:
        """Answer which models there are."""
        return self._models.listed(command.request_id, command.start)

    def describe_model(self, command: m.DescribeModel) -> m.ModelDescribed:
        """Answer which tensors a model has."""
        return self._models.described(command.request_id, command.model, command.start)

    def load(self, command: m.LoadWeights) -> m.WeightsLoaded | None:
        """Let handles name tensors of a model, which become resident weights.

        Raises:
            ModelFileError: There is no such model, or it has no such tensor.
            NotRecoverable: A content is not the one that is wanted again.
            QuotaExceeded: There is no room for one.
        """
        handles, wanted = command.handles, command.digests
        if len(handles) != len(command.tensors) or (wanted and len(wanted) != len(handles)):
            raise ProtocolError("a command to load weights must name a tensor for each handle, and all digests or none")
        loaded = []
        for position, handle in enumerate(handles):
            weight = self._weights.hold(wanted[position]) if wanted else None
            if weight is None:
                weight = self._resident(command, position)
            self._name(handle, weight, viewed=True)
            loaded.append(weight)
        if not command.request_id:
            return None
        specs, digests = tuple(weight.spec for weight in loaded), tuple(weight.digest for weight in loaded)
        return m.WeightsLoaded(command.request_id, specs, digests)

    def _resident(self, command: m.LoadWeights, position: int) -> ResidentWeight:
        """Return a tensor of a model as a resident weight, and count one user; it is read where it is not here."""
        loadable = self._models.loadable(command.model, command.tensors[position], command.dtype)
        digest = self._models.known_digest(loadable)
        weight = self._weights.hold(digest) if digest is not None else None
        if weight is None:
            weight = self._weights.load(loadable.spec, loadable.read)
            self._models.remember(loadable, weight.digest)
        if command.digests and weight.digest != command.digests[position]:
            self._weights.drop(weight)
            raise NotRecoverable(
                f"{loadable.tensor.name!r:.200} of the model {command.model!r:.200} is not what it was when it was "
                "loaded, for its file was changed; load the model again"
            )
        return weight

    def drop_held(self) -> None:
        """Drop the references to weights that were asked for or stored."""
        for weight in self.held:
            self._weights.drop(weight)
        self.held.clear()
