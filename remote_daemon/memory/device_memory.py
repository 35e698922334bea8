"""The memory of a device, shared by two allocators: a pool for residents, and torch's own for temporaries.

Each keeps memory that it has got from the driver, used or not, and neither knows of the other: left alone, one starves
the other. Here what the pool holds is taken from what torch may hold, and each gives back its idle memory before the
other one is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch


class ResidentPool(Protocol):
    """The allocator of residents: tensors that stay from call to call."""

    @property
    def held(self) -> int:
        """Bytes got from the driver, idle ones included."""
        ...

    @property
    def used(self) -> int:
        """Bytes that tensors live in."""
        ...

    def allocate(self, nbytes: int) -> torch.Tensor:
        """Return uninitialised memory, flat, uint8; the last reference gives it back to the pool.

        Raises:
            MemoryError: There is none.
        """
        ...

    def trim(self) -> None:
        """Give idle memory back to the driver."""
        ...


class TemporaryAllocator(Protocol):
    """The allocator of temporaries, what programs make on the way: torch's own."""

    @property
    def held(self) -> int:
        """Bytes got from the driver, idle ones included."""
        ...

    def allow(self, nbytes: int) -> None:
        """Refuse to hold more than this from now on."""
        ...

    def trim(self) -> None:
        """Give idle memory back to the driver."""
        ...


class DeviceMemory:
    """Memory of one device within a limit."""

    def __init__(
        self,
        limit: int,
        pool: ResidentPool,
        temporaries: TemporaryAllocator,
        free: Callable[[int], object] | None = None,
    ) -> None:
        """Share `limit` bytes out; `free` frees residents of as many bytes as are lacking, if they can go."""
        self.limit = limit
        self._free = free
        self._pool = pool
        self._temporaries = temporaries
        self._share_out()

    @property
    def held(self) -> int:
        """What both allocators have got from the driver."""
        return self._pool.held + self._temporaries.held

    def has_room(self, nbytes: int) -> bool:
        """Whether so much fits as things are: nothing is given back for it, nor offloaded."""
        return nbytes <= self._pool.held - self._pool.used or self.held + nbytes <= self.limit

    def allocate(self, nbytes: int) -> torch.Tensor:
        """Return memory for a resident tensor, flat, uint8.

        Raises:
            torch.OutOfMemoryError: It does not fit beside what is in use.
        """
        before = self._pool.held
        if nbytes > before - self._pool.used:
            self._make_room(nbytes)
        try:
            memory = self._pool.allocate(nbytes)
        except MemoryError:  # what is idle lies in pieces that are too small
            memory = self._allocate_once_more(nbytes)
        if self._pool.held != before:
            self._share_out()
        return memory

    def make_room_for_temporaries(self) -> None:
        """Give torch what the pool holds and does not use; called when torch found too little."""
        self._pool.trim()
        self._share_out()

    def _make_room(self, nbytes: int) -> None:
        if self._fits_once_trimmed(nbytes):
            return
        if self._free is not None:
            self._free(self.held + nbytes - self.limit)
            if self._fits_once_trimmed(nbytes):
                return
        raise self._too_little(nbytes)

    def _fits_once_trimmed(self, nbytes: int) -> bool:
        for trim in (self._temporaries.trim, self._pool.trim):
            if self.held + nbytes <= self.limit:
                return True
            trim()
        return self.held + nbytes <= self.limit

    def _allocate_once_more(self, nbytes: int) -> torch.Tensor:
        self._temporaries.trim()
        self._pool.trim()
        try:
            return self._pool.allocate(nbytes)
        except MemoryError:
            raise self._too_little(nbytes) from None

    def _too_little(self, nbytes: int) -> torch.OutOfMemoryError:
        return torch.OutOfMemoryError(
            f"{nbytes:,} bytes do not fit: of {self.limit:,} the tensors that stay use {self._pool.used:,} and torch "
            f"holds {self._temporaries.held:,} for what programs make on the way; free tensors or start the daemon "
            "with a larger --memory-limit"
        )

    def _share_out(self) -> None:
        self._temporaries.allow(max(0, self.limit - self._pool.held))
