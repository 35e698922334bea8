"""What a journal holds on to beyond numbers: contents of tensors, within a budget of bytes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

import torch

from dynamo_genie.runtime.wire.content import chunk_digests
from dynamo_genie.runtime.wire.tensor import Dtype, InlineTensor, TensorSpec
from dynamo_genie.tensors import spec_of, tensor_bytes

JOURNAL_NBYTES = 256 << 20
"""So much a session's journal may hold; what would be more cannot be made again."""

FREE_NBYTES = 1024
"""Less than this is not counted: there is no more of it than of handles."""


class Share:
    """A share of a budget, given back when nothing refers to it any more, in any thread and at any point."""

    __slots__ = ("_back", "_nbytes")

    def __init__(self, nbytes: int, back: deque[int]) -> None:
        self._nbytes = nbytes
        self._back = back

    def __del__(self) -> None:
        self._back.append(self._nbytes)


class Budget:
    """The bytes that a journal may hold, `limit` of them."""

    def __init__(self, limit: int = JOURNAL_NBYTES) -> None:
        self.limit = limit
        self._used = 0
        self._back: deque[int] = deque()

    @property
    def used(self) -> int:
        """How many bytes are held."""
        while self._back:
            self._used -= self._back.popleft()
        return self._used

    def take(self, nbytes: int) -> Share | None:
        """Return a share of this size; None where there is no room for it."""
        if self.used + nbytes > self.limit:
            return None
        self._used += nbytes
        return Share(nbytes, self._back)


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """The contents of a tensor: bytes of its own, or memory of the program's that must not have changed.

    Attributes:
        tensor: Keeps the memory alive.
        digests: What the memory's chunks were; None where the memory is nobody else's.
        share: What it takes of the budget.
    """

    spec: TensorSpec
    tensor: torch.Tensor
    digests: bytes | None
    share: Share

    @classmethod
    def of(cls, dense: torch.Tensor, budget: Budget, *, private: bool) -> Contents | None:
        """Hold on to a dense local tensor; where it is not `private`, note what is in it. None: no room."""
        share = budget.take(dense.nbytes)
        if share is None:
            return None
        dense = dense.detach()
        return cls(spec_of(dense), dense, None if private else chunk_digests(tensor_bytes(dense)), share)

    @property
    def view(self) -> memoryview:
        """The bytes."""
        return tensor_bytes(self.tensor)

    @property
    def unchanged(self) -> bool:
        """Whether the memory holds what it held."""
        return self.digests is None or chunk_digests(self.view) == self.digests


@dataclass(frozen=True, slots=True)
class FromFile:
    """A tensor of a model that the daemon has in files, and the digest of what it was when it was loaded."""

    model: str
    tensor: str
    dtype: Dtype | Literal[""]
    digest: bytes


@dataclass(frozen=True, slots=True)
class Offered:
    """A weight that the daemon had, and that was not sent; the program's own memory, if there was room to note it."""

    digest: bytes
    spec: TensorSpec
    contents: Contents | None


Held = InlineTensor | Contents | FromFile | Offered
"""What a tensor can be made from again."""
