"""The buffer store of one worker: its resident tensors, behind a small interface. Knows nothing of sessions or sockets.

`BufferStore` is what an executor needs of a device's memory: make a tensor from bytes, or room for one, take over a
finished upload, read a tensor's bytes back. `HostBufferStore` keeps them in host memory; device memory is another
implementation of the same interface.
"""

from __future__ import annotations

from typing import Protocol

import torch

from dynamo_genie.runtime.wire.tensor import TensorSpec


class BufferStore(Protocol):
    """The buffers of a worker: where its tensors live."""

    @property
    def device(self) -> torch.device:
        """The device that programs run on."""
        ...

    def from_bytes(self, spec: TensorSpec, data: bytes) -> torch.Tensor:
        """Return a new tensor with `spec`'s shape and strides holding `data` (bytes in memory order)."""
        ...

    def adopt(self, spec: TensorSpec, staged: torch.Tensor) -> torch.Tensor:
        """Return a tensor made of a finished upload (host, uint8), taking its memory over where possible."""
        ...

    def empty(self, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        """Return an uninitialised contiguous resident tensor: a cache with room to grow, say."""
        ...

    def synchronize(self) -> None:
        """Wait until what was launched so far is through; raises what it failed with."""
        ...

    def reclaim(self) -> None:
        """Give idle memory of the resident pool to temporaries; called when those found too little."""
        ...

    def to_host(self, tensor: torch.Tensor) -> tuple[TensorSpec, memoryview]:
        """Return a private copy of the tensor's bytes in memory order, and their description."""
        ...

    def in_place(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """Return the tensor's bytes in memory order where they lie, flat, uint8; None where they must be copied."""
        ...

    def patch(self, tensor: torch.Tensor, offset: int, staged: torch.Tensor) -> None:
        """Overwrite the bytes at `offset...` of a dense tensor with a finished upload."""
        ...
