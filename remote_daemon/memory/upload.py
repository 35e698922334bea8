"""An upload: bytes that arrive chunk by chunk, in the host memory that they fill."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from dynamo_genie.errors import ProtocolError
from dynamo_genie.runtime.wire.content import chunk_digest
from dynamo_genie.runtime.wire.limits import CHUNK_NBYTES


@dataclass
class Upload:
    """One transfer into worker memory: a flat uint8 tensor filled from the front, hashed chunk by chunk."""

    nbytes: int
    memory: torch.Tensor
    view: memoryview
    received: int = 0
    chunk_digests: bytearray = field(default_factory=bytearray)

    def room(self, offset: int) -> memoryview:
        """Return where the chunk at `offset` belongs; chunks come in order.

        Raises:
            ProtocolError: The offset is not the next one.
        """
        if offset != self.received or offset >= self.nbytes:
            raise ProtocolError(f"chunk at {offset} of an upload that expects {self.received} of {self.nbytes}")
        return self.view[offset : min(offset + CHUNK_NBYTES, self.nbytes)]

    def arrived(self, chunk: memoryview) -> bool:
        """Account for a chunk written into `room`; return whether the upload is complete."""
        self.chunk_digests += chunk_digest(chunk)
        return self.advance(len(chunk))

    def advance(self, nbytes: int) -> bool:
        """Account for bytes that nobody will ask the digest of; return whether the upload is complete."""
        self.received += nbytes
        return self.received == self.nbytes
