"""The commands for resident weights of a session. The caller holds the session's lock."""

from __future__ import annotations

from collections.abc import Sequence

from dynamo_genie.errors import ProtocolError
from dynamo_genie.runtime.session.command_queue import CommandQueue
from dynamo_genie.runtime.session.session_ids import SessionIds
from dynamo_genie.runtime.session.uploads import Uploads
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.tensor import TensorSpec


class WeightCommands:
    """The commands for weights of one session; a `WeightChannel`."""

    def __init__(self, commands: CommandQueue, uploads: Uploads, ids: SessionIds) -> None:
        self._commands = commands
        self._ids = ids
        self.mint, self.free = ids.mint, ids.free
        self.sync, self.upload_many = commands.sync, uploads.send_many

    def missing(self, digests: Sequence[bytes]) -> set[int]:
        """Return the positions of the contents that the worker lacks."""
        request_id = self._ids.request()
        self._commands.post(m.QueryWeights(request_id, tuple(digests)))
        reply = self._commands.wait(request_id)
        if not isinstance(reply, m.WeightsMissing):
            raise ProtocolError(f"expected WeightsMissing, got {type(reply).__name__}")
        return set(reply.missing)

    def store(self, digest: bytes, spec: TensorSpec, upload: int) -> None:
        """Keep an upload as a resident weight; `sync` tells whether that went well."""
        self._commands.post(m.StoreWeight(digest, spec, upload))

    def adopt(self, handle: int, digest: bytes, spec: TensorSpec) -> None:
        """Let a handle name a resident weight."""
        self._commands.post(m.AdoptWeight(handle, digest, spec))

    def patch(self, handle: int, offset: int, upload: int) -> None:
        """Overwrite part of a weight."""
        self._commands.post(m.PatchWeight(handle, offset, upload))
