"""The commands for resident weights of a session. The caller holds the session's lock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import torch

from dynamo_genie.errors import ProtocolError
from dynamo_genie.runtime.attachment.attachment import Attachment
from dynamo_genie.runtime.recovery.held import Contents, FromFile, Offered
from dynamo_genie.runtime.recovery.recovery import Recovery
from dynamo_genie.runtime.session.command_queue import CommandQueue
from dynamo_genie.runtime.session.identity import SessionIdentity
from dynamo_genie.runtime.session.uploads import Uploads
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.content import chunk_digests, content_digest
from dynamo_genie.runtime.wire.tensor import Dtype, TensorSpec
from dynamo_genie.tensors import spec_of, tensor_bytes

T = TypeVar("T")
A = TypeVar("A", m.ModelsListed, m.ModelDescribed, m.WeightsLoaded)


class WeightCommands:
    """The commands for weights of one session; a `WeightChannel`."""

    def __init__(
        self,
        commands: CommandQueue,
        uploads: Uploads,
        identity: SessionIdentity,
        recovery: Recovery[Attachment] | None = None,
    ) -> None:
        self._recovery = recovery
        self._notes = None if recovery is None else recovery.notes
        self._residents: list[Callable[[], None]] = []
        self._commands = commands
        self._identity = identity
        self._ids = identity.ids
        self.mint, self.free = self._ids.mint, self._ids.free
        self.upload_many = uploads.send_many

    def whole(self, operation: Callable[[], T]) -> T:
        """Run an operation that can be begun again; where a worker dies under it, it is, on another worker."""
        return operation() if self._recovery is None else self._recovery.whole(operation)

    def when_gone(self, restore: Callable[[], None]) -> None:
        """Call `restore` when another worker has taken this one's place, which has none of the weights."""
        self._residents.append(restore)

    def restore(self) -> None:
        """Make all weights resident again."""
        for restore in self._residents:
            restore()
        if self._recovery is not None:
            self._recovery.clock.resident()

    def adopt_again(self, handle: int, digest: bytes, spec: TensorSpec, *, same: bool) -> None:
        """Let a handle name a resident weight on another worker; `same` says that it is what the last one had."""
        if self._notes is not None:
            self._notes.journal.adopted_again(handle, same=same)
        self._commands.repeat(m.AdoptWeight(handle, digest, spec))

    def gone(self, handle: int) -> None:
        """Note that nobody has any more what a handle named."""
        if self._notes is not None:
            self._notes.journal.forget((handle,))

    def hold(self, handle: int, tensor: torch.Tensor) -> None:
        """Keep what a weight is now, because a program is about to change it."""
        if self._notes is not None:
            self._notes.journal.hold_weight(handle, tensor)

    def settled(self, handle: int) -> None:
        """Note that a weight that a program changed is what the local one is."""
        if self._notes is not None:
            self._notes.journal.settled(handle)

    def missing(self, digests: Sequence[bytes]) -> set[int]:
        """Return the positions of the contents that the worker lacks."""
        self._identity.late.take_storing()  # of an upload that was given up
        request_id = self._ids.request()
        self._commands.post(m.QueryWeights(request_id, tuple(digests)))
        reply = self._commands.wait(request_id)
        if not isinstance(reply, m.WeightsMissing):
            raise ProtocolError(f"expected WeightsMissing, got {type(reply).__name__}")
        return set(reply.missing)

    def sync(self) -> None:
        """Wait until everything so far has run; raise why a content could not be kept."""
        self._commands.sync()
        error = self._identity.late.take_storing()
        if error is not None:
            raise self._commands.failure(error)

    def take_doubt(self) -> bool:
        """Return whether the worker's weights may be others than this side believes, once."""
        doubtful, self._identity.weights_doubtful = self._identity.weights_doubtful, False
        return doubtful

    def store(self, digest: bytes, spec: TensorSpec, upload: int) -> None:
        """Keep an upload as a resident weight; `sync` tells whether that went well."""
        self._commands.post(m.StoreWeight(digest, spec, upload))

    def adopt(self, handle: int, digest: bytes, spec: TensorSpec) -> None:
        """Let a handle name a resident weight."""
        self._commands.post(m.AdoptWeight(handle, digest, spec))

    def patch(self, handle: int, offset: int, upload: int) -> None:
        """Overwrite part of a weight."""
        self._commands.save_recent()
        self._commands.post(m.PatchWeight(handle, offset, upload))

    def offer(self, handle: int, tensor: torch.Tensor) -> bool:
        """Let a handle name what the worker has of a dense CPU tensor's content; say whether it has it.

        The handle's tensor is one of its own: it may be written, whatever becomes of this one.
        """
        spec = spec_of(tensor)
        digest = content_digest(spec, chunk_digests(tensor_bytes(tensor)))

        def ask() -> bool:
            if self.missing((digest,)):
                return False
            self._commands.post(m.AdoptWeight(handle, digest, spec, viewed=True))
            return True

        found = self.whole(ask)
        if found and self._notes is not None:
            journal = self._notes.journal
            journal.loaded(handle, Offered(digest, spec, Contents.of(tensor, journal.budget, private=False)))
        return found

    # --- models in the daemon's files ----------------------------------------------------------------------

    def models(self) -> list[m.ModelSummary]:
        """Return which models the daemon has."""
        found: list[m.ModelSummary] = []
        while True:
            reply = self._ask(m.ListModels(self._ids.request(), len(found)), m.ModelsListed)
            found += reply.models
            if len(found) >= reply.total or not reply.models:
                return found

    def model_tensors(self, model: str) -> list[m.ModelTensor]:
        """Return the tensors of a model.

        Raises:
            ModelFileError: There is no such model, or its files are no good.
        """
        found: list[m.ModelTensor] = []
        while True:
            reply = self._ask(m.DescribeModel(self._ids.request(), model, len(found)), m.ModelDescribed)
            found += reply.tensors
            if len(found) >= reply.total or not reply.tensors:
                return found

    def load(
        self, handles: Sequence[int], model: str, tensors: Sequence[str], dtype: Dtype | Literal[""]
    ) -> tuple[TensorSpec, ...]:
        """Let handles name tensors of a model, floating point ones in `dtype` where that is given.

        Returns what they are. They can be had again from another worker, if the files stay what they are.

        Raises:
            ModelFileError: There is no such model, or it has no such tensor.
            QuotaExceeded: There is no room for them.
        """
        command = m.LoadWeights(self._ids.request(), tuple(handles), model, tuple(tensors), dtype)
        reply = self._ask(command, m.WeightsLoaded, sum(map(len, tensors)))
        if not len(reply.specs) == len(reply.digests) == len(handles):
            raise ProtocolError(f"{len(reply.specs)} tensors were loaded where {len(handles)} were asked for")
        if self._notes is not None:
            for handle, tensor, digest in zip(handles, tensors, reply.digests, strict=True):
                self._notes.journal.loaded(handle, FromFile(model, tensor, dtype, digest))
        return reply.specs

    def _ask(self, command: m.ModelCommand, answer: type[A], nbytes: int = 64) -> A:
        """Ask, and return the answer, which must be of this class."""
        self._commands.post(command, nbytes)
        reply = self._commands.wait(command.request_id)
        if not isinstance(reply, answer):
            raise ProtocolError(f"expected {answer.__name__}, got {type(reply).__name__}")
        return reply
