"""A daemon's weight memory in this process: really stores, adopts and patches bytes, and counts what was sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from dynamo_genie.runtime.weights.weights import WeightChannel
from dynamo_genie.runtime.wire.content import chunk_digests, content_digest
from dynamo_genie.runtime.wire.tensor import TensorSpec
from dynamo_genie.tensors import empty_like_spec, tensor_bytes


@dataclass
class HostChannel(WeightChannel):
    """Handles name buffers of their own; contents are kept until forgotten."""

    sent_nbytes: int = 0
    queries: int = 0
    contents: dict[bytes, bytes] = field(default_factory=dict)
    resident: dict[int, tuple[TensorSpec, bytearray]] = field(default_factory=dict)
    uploads: dict[int, bytes] = field(default_factory=dict)
    fail_next_upload: bool = False
    doubtful: bool = False
    _last: int = 0

    def mint(self) -> int:
        self._last += 1
        return self._last

    def missing(self, digests: Sequence[bytes]) -> set[int]:
        self.queries += 1
        return {position for position, digest in enumerate(digests) if digest not in self.contents}

    def upload(self, view: memoryview, kind: str = "weight") -> int:
        if self.fail_next_upload:
            self.fail_next_upload = False
            raise TimeoutError("the upload got stuck")
        number = self.mint()
        self.uploads[number] = bytes(view)
        self.sent_nbytes += view.nbytes
        return number

    def upload_many(
        self, views: Sequence[memoryview], arrived: Callable[[int], None], *, progress: object = None
    ) -> None:
        for view in views:
            arrived(self.upload(view))

    def sync(self) -> None:
        """Everything was done when it was asked for."""

    def take_doubt(self) -> bool:
        doubtful, self.doubtful = self.doubtful, False
        return doubtful

    def store(self, digest: bytes, spec: TensorSpec, upload: int) -> None:
        data = self.uploads.pop(upload)
        assert content_digest(spec, chunk_digests(memoryview(data))) == digest
        self.contents[digest] = data

    def adopt(self, handle: int, digest: bytes, spec: TensorSpec) -> None:
        assert handle not in self.resident
        self.resident[handle] = (spec, bytearray(self.contents[digest]))

    def patch(self, handle: int, offset: int, upload: int) -> None:
        data = self.uploads.pop(upload)
        buffer = self.resident[handle][1]
        assert offset + len(data) <= len(buffer)
        buffer[offset : offset + len(data)] = data

    def free(self, handle: int) -> None:
        del self.resident[handle]

    def read(self, handle: int) -> torch.Tensor:
        """Return what the daemon would compute with."""
        spec, buffer = self.resident[handle]
        tensor = empty_like_spec(spec)
        tensor_bytes(tensor, writable=True)[:] = buffer
        return tensor

    def take_sent(self) -> int:
        """Return the bytes sent since the last call."""
        sent, self.sent_nbytes = self.sent_nbytes, 0
        return sent
