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

    def allow(self, nbytes: int) -> None:
        """Refuse to hold more than this from now on."""
        ...

    def allocate(self, nbytes: int) -> torch.Tensor:
        """Return uninitialised memory, flat, uint8; the last reference gives it back to the pool.

        Raises:
            MemoryError: There is none: what is idle lies in pieces that are too small, and no more may be held.
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

    def allocate_at_once(self, nbytes: int) -> torch.Tensor | None:
        """Return memory for a resident tensor if there is some now: torch gives nothing back, nobody is offloaded."""
        before = self._pool.held
        memory = self._from_idle(nbytes, before)
        if memory is None and self.held + nbytes <= self.limit:
            memory = self._grown(nbytes)
        self._note_change(before)
        return memory

    def allocate(self, nbytes: int) -> torch.Tensor:
        """Return memory for a resident tensor, flat, uint8.

        Raises:
            torch.OutOfMemoryError: It does not fit beside what is in use.
        """
        before = self._pool.held
        memory = self._from_idle(nbytes, before)
        try:
            return self._allocate_more(nbytes) if memory is None else memory
        finally:
            self._note_change(before)

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

    def _from_idle(self, nbytes: int, held: int) -> torch.Tensor | None:
        """Allocate what the pool has and does not use; None where there is too little in one piece."""
        return self._within(held, nbytes) if nbytes <= held - self._pool.used else None

    def _grown(self, nbytes: int) -> torch.Tensor | None:
        """Allocate what the pool has, or gets from the driver within the limit."""
        return self._within(self.limit - self._temporaries.held, nbytes)

    def _within(self, allowed: int, nbytes: int) -> torch.Tensor | None:
        self._pool.allow(allowed)
        try:
            return self._pool.allocate(nbytes)
        except MemoryError:
            return None

    def _allocate_more(self, nbytes: int) -> torch.Tensor:
        self._make_room(nbytes)
        memory = self._grown(nbytes)
        if memory is None:  # a few bytes are lacking, for pools round up, or others use the device too
            self._temporaries.trim()
            self._pool.trim()
            memory = self._grown(nbytes)
        if memory is None:
            raise self._too_little(nbytes)
        return memory

    def _too_little(self, nbytes: int) -> torch.OutOfMemoryError:
        return torch.OutOfMemoryError(
            f"{nbytes:,} bytes do not fit: of {self.limit:,} the tensors that stay use {self._pool.used:,} and torch "
            f"holds {self._temporaries.held:,} for what programs make on the way; free tensors or start the daemon "
            "with a larger --memory-limit"
        )

    def _note_change(self, before: int) -> None:
        if self._pool.held != before:
            self._share_out()

    def _share_out(self) -> None:
        self._temporaries.allow(max(0, self.limit - self._pool.held))
