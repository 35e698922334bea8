"""A device whose copies are late: nothing is copied before somebody waits for it, in an order of the test's choosing.

What a real device may do and seldom does, this one does every time: a buffer that is filled again too early, memory
that is used again while a kernel still reads it, and a kernel that reads what is not there yet all give wrong bytes.
"""

from __future__ import annotations

import random
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch

from dynamo_genie.remote_daemon.memory.pinned_ring import CopyEvent

Work = Callable[[], object]


class _Stream:
    def __init__(self) -> None:
        self.waiting: deque[Work | _Point] = deque()
        self.launched = 0
        self.done = 0

    def launch(self, work: Work | _Point) -> None:
        self.waiting.append(work)
        self.launched += 1

    def can_step(self) -> bool:
        """Whether there is something to do, and what it waits for on the other stream has been reached."""
        return bool(self.waiting) and not (isinstance(self.waiting[0], _Point) and not self.waiting[0].passed())

    def step(self) -> None:
        work = self.waiting.popleft()
        if not isinstance(work, _Point):
            work()
        self.done += 1


class _Point(CopyEvent):
    """A point on a stream: so many launches of it."""

    def __init__(self, device: SimulatedDevice, stream: _Stream) -> None:
        self._device = device
        self._stream = stream
        self._at = stream.launched

    def passed(self) -> bool:
        return self._stream.done >= self._at

    def synchronize(self) -> None:
        self._device.run_until(self.passed)


class SimulatedDevice:
    """`CopyStreams` of a device in host memory; `compute` launches a kernel."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._compute = _Stream()
        self._copies = _Stream()
        self.most_in_flight = 0

    def compute(self, kernel: Work) -> None:
        """Launch a kernel on the compute stream."""
        self._compute.launch(kernel)

    def copies_wait(self) -> None:
        self._wait(self._copies, self._compute)

    def compute_waits(self) -> None:
        self._wait(self._compute, self._copies)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> CopyEvent:
        self._copies.launch(lambda: target.copy_(source))
        self.most_in_flight = max(self.most_in_flight, len(self._copies.waiting))
        while self._random.random() < 0.3 and self._copies.can_step():  # now and then the device is quick
            self._copies.step()
        return _Point(self, self._copies)

    def copy_small(self, target: torch.Tensor, source: torch.Tensor) -> None:
        staged = source.clone()
        self._compute.launch(lambda: target.copy_(staged))

    def synchronize(self) -> None:
        """Wait for everything."""
        self.run_until(lambda: not (self._compute.waiting or self._copies.waiting))

    def run_until(self, reached: Callable[[], bool]) -> None:
        """Let both streams run, in any order that their waits allow, until something is reached."""
        while not reached():
            able = [one for one in (self._compute, self._copies) if one.can_step()]
            self._random.choice(able).step()

    def _wait(self, waiter: _Stream, awaited: _Stream) -> None:
        waiter.launch(_Point(self, awaited))


class PromptDevice(SimulatedDevice):
    """Copies at once: operators of the tests run on the host, in no stream."""

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> CopyEvent:
        point = super().copy(target, source)
        point.synchronize()
        return point

    def copy_small(self, target: torch.Tensor, source: torch.Tensor) -> None:
        target.copy_(source)


class FakePool:
    """A pool in host memory that hands out what was given back, as a real one does, with what lay there before."""

    def __init__(self) -> None:
        self.held = 0
        self.trims = 0
        self.used = 0
        self.fails = 0
        self.allowed = 0

    def allow(self, nbytes: int) -> None:
        self.allowed = nbytes

    def allocate(self, nbytes: int) -> torch.Tensor:
        if self.fails:
            self.fails -= 1
            raise MemoryError("in pieces")
        self.used += nbytes
        self.held = max(self.held, self.used)
        return torch.empty(nbytes, dtype=torch.uint8)

    def free(self, nbytes: int) -> None:
        self.used -= nbytes

    def trim(self) -> None:
        self.trims += 1
        self.held = self.used


class LivePool(FakePool):
    """A pool whose memory comes back when the last tensor in it dies, as CuPy's does."""

    def allocate(self, nbytes: int) -> torch.Tensor:
        memory = super().allocate(nbytes)
        if nbytes:
            weakref.finalize(memory.untyped_storage(), self.free, nbytes)
        return memory


@dataclass(eq=False)
class _Piece:
    size: int
    used: bool


class PiecedPool:
    """A pool that keeps pieces as CuPy's does: by the size that was asked for, split for less, merged with neighbours.

    It takes the smallest idle piece that is large enough, else more from the driver, and gives back what lies in one
    piece where it holds too much for that. Freed pieces go where they came from, whoever frees them.
    """

    UNIT = 512

    def __init__(self) -> None:
        self.allowed = 0
        self.trims = 0
        self._segments: list[list[_Piece]] = []  # of each, its pieces in order

    @property
    def held(self) -> int:
        return sum(piece.size for segment in self._segments for piece in segment)

    @property
    def used(self) -> int:
        return sum(piece.size for segment in self._segments for piece in segment if piece.used)

    def allow(self, nbytes: int) -> None:
        self.allowed = nbytes

    def allocate(self, nbytes: int) -> torch.Tensor:
        size = -(-nbytes // self.UNIT) * self.UNIT
        piece = _Piece(size, used=True)
        idle = [(p, s) for s in self._segments for p in s if not p.used and p.size >= size]
        if idle:
            found, segment = min(idle, key=lambda place: place[0].size)
            rest = [_Piece(found.size - size, used=False)] if found.size > size else []
            segment[segment.index(found) : segment.index(found) + 1] = [piece, *rest]
        else:
            if self.held + size > self.allowed:
                self._give_back()
            if self.held + size > self.allowed:
                raise MemoryError(f"Out of memory allocating {size:,} bytes")
            self._segments.append(segment := [piece])
        memory = torch.empty(nbytes, dtype=torch.uint8)
        weakref.finalize(memory.untyped_storage(), self._free, segment, piece)
        return memory

    def trim(self) -> None:
        self.trims += 1
        self._give_back()

    def _give_back(self) -> None:
        self._segments = [segment for segment in self._segments if len(segment) > 1 or segment[0].used]

    @staticmethod
    def _free(segment: list[_Piece], piece: _Piece) -> None:
        """Free a piece, and merge the idle ones that lie beside each other."""
        piece.used = False
        merged: list[_Piece] = []
        for each in segment:
            if merged and not merged[-1].used and not each.used:
                merged[-1].size += each.size
            else:
                merged.append(each)
        segment[:] = merged


class FakeAllocator:
    """torch's allocator, as far as it is counted."""

    def __init__(self, held: int = 0, idle: int = 0) -> None:
        self.held = held
        self.idle = idle
        self.allowed = -1
        self.trims = 0

    def allow(self, nbytes: int) -> None:
        self.allowed = nbytes

    def trim(self) -> None:
        self.trims += 1
        self.held -= self.idle
        self.idle = 0
