"""The commands for resident weights of a session. The caller holds the session's lock."""

from __future__ import annotations

from collections.abc import Sequence

from dynamo_genie.errors import ProtocolError
from dynamo_genie.runtime.session.command_queue import CommandQueue
from dynamo_genie.runtime.session.identity import SessionIdentity
from dynamo_genie.runtime.session.uploads import Uploads
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.tensor import TensorSpec


class WeightCommands:
    """The commands for weights of one session; a `WeightChannel`."""

    def __init__(self, commands: CommandQueue, uploads: Uploads, identity: SessionIdentity) -> None:
        self._commands = commands
        self._identity = identity
        self._ids = identity.ids
        self.mint, self.free = self._ids.mint, self._ids.free
        self.upload_many = uploads.send_many

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
        self._commands.post(m.PatchWeight(handle, offset, upload))
