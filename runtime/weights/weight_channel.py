"""What the registry of resident weights needs from a session."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch

from dynamo_genie.runtime.wire.tensor import TensorSpec

T = TypeVar("T")


class WeightChannel(Protocol):
    """The part of a session that speaks of weights. Only `missing`, uploads and `sync` wait for the daemon."""

    def mint(self) -> int:
        """Return a handle id never used before in this session."""

    def missing(self, digests: Sequence[bytes]) -> set[int]:
        """Return the positions of the contents that the daemon lacks."""

    def upload_many(
        self, views: Sequence[memoryview], arrived: Callable[[int], None], *, progress: Callable[[int], None] | None
    ) -> None:
        """Send several blocks of bytes, one upload each; `arrived` is told the number of each, in order.

        A block may be empty. `progress` is told the bytes sent since it was told last.
        """

    def store(self, digest: bytes, spec: TensorSpec, upload: int) -> None:
        """Keep an upload on the daemon as a content."""

    def sync(self) -> None:
        """Wait until everything so far was done; raise why a content could not be kept."""

    def take_doubt(self) -> bool:
        """Return, once, whether something failed that keeps the daemon's weights equal to the local ones."""

    def adopt(self, handle: int, digest: bytes, spec: TensorSpec) -> None:
        """Let a handle name a content."""

    def patch(self, handle: int, offset: int, upload: int) -> None:
        """Overwrite bytes of what a handle names; who else has that content does not notice."""

    def free(self, handle: int) -> None:
        """Give up a handle."""

    # --- the end of the daemon; who talks to one that never ends need not heed this ----------------------------

    def whole(self, operation: Callable[[], T], /) -> T:
        """Run an operation that can be begun again: it is, where the daemon is lost and another takes its place."""
        return operation()

    def when_gone(self, restore: Callable[[], None], /) -> None:
        """Call `restore` when another daemon has taken the place of this one, and has none of the handles."""
        return

    def hold(self, handle: int, tensor: torch.Tensor) -> None:
        """Note that a program is about to change what a handle names, which is what this tensor holds."""
        return

    def settled(self, handle: int) -> None:
        """Note that what a handle names is again what the program has here."""
        return

    def adopt_again(self, handle: int, digest: bytes, spec: TensorSpec, *, same: bool) -> None:
        """Let a handle name a content on another daemon; `same` says that it named that on the last one."""
        return

    def gone(self, handle: int) -> None:
        """Note that what a handle named cannot be had any more."""
        return
