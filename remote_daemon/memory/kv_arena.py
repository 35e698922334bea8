"""KV arenas, in which caches grow in place: memory with room behind each cache, and who may append to it.

Knows tensors and the memory budget; which `cat` of a Program is a cache is `arena_plan`'s business. Used by the
executor thread only.

An arena is one storage. A *window* is a view of it that covers some tokens, from `start` up to `stop`::

    tokens     0        start             stop == filled      capacity
               |..........|#################|..................|
                           past              new goes here

Appending writes behind `filled`, where no window reaches, so a value that somebody still holds never changes. Only the
window that ends at `filled` can be appended to; every other one (a second continuation of the same cache, a cropped
one) is copied into an arena of its own, as is a plain tensor and a cache whose room is used up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget

MIN_ROOM = 64
"""Tokens of room behind a new arena's content; half of the content where that is more, so that moves stay rare."""

ROW_ALIGNMENT_NBYTES = 16
"""Caches grow in place where tokens lie a multiple of this apart.

MKL's products sum in another order where rows are aligned otherwise, and room moves the rows of all heads but the
first: attentions with heads of 5, 6, 7, 9, ... floats differed from eager in their last bits, those with a multiple
of 4 never (`tests/remote_daemon/memory/test_arena_bits.py`).
"""


Empty: TypeAlias = Callable[[torch.Size, torch.dtype], torch.Tensor]
"""Makes an uninitialised contiguous tensor where the worker's tensors live."""


def empty_on_host(shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    """Return an uninitialised contiguous tensor in host memory."""
    return torch.empty(shape, dtype=dtype)


class ArenaCounts(NamedTuple):
    """Counts of what growing caches cost: bytes appended behind them, and bytes of caches that were copied whole."""

    appends: int = 0
    appended_nbytes: int = 0
    moves: int = 0
    moved_nbytes: int = 0

    def plus(self, more: ArenaCounts, sign: int = 1) -> ArenaCounts:
        """Return the sum, or with `sign` -1 the difference."""
        return ArenaCounts(*(own + sign * other for own, other in zip(self, more, strict=True)))

    def named(self) -> tuple[tuple[str, int], ...]:
        """Return the counts under the names by which they are reported."""
        return tuple((f"arena_{name}", count) for name, count in self._asdict().items())


@dataclass
class Arena:
    """An arena: how its storage is laid out, and how far it is filled.

    Attributes:
        begins: For each `stop` that an append made, where the tensor that eager PyTorch would have made there begins.
        clean: Whether the room behind the content was filled with zeros; it is uninitialised at first.
    """

    shape: torch.Size
    stride: tuple[int, ...]
    axis: int
    filled: int
    begins: dict[int, int] = field(default_factory=dict)
    clean: bool = False

    @property
    def capacity(self) -> int:
        """Tokens that fit."""
        return self.shape[self.axis]

    def window(self, tensor: torch.Tensor) -> tuple[int, int] | None:
        """Return the tokens (start, stop) that a tensor of this storage covers, None for any other kind of view."""
        axis = self.axis
        if tensor.stride() != self.stride:
            return None
        shape = tensor.shape
        if shape[:axis] != self.shape[:axis] or shape[axis + 1 :] != self.shape[axis + 1 :]:
            return None
        start, rest = divmod(int(tensor.storage_offset()), self.stride[axis])
        stop = start + shape[axis]
        return (start, stop) if rest == 0 and stop <= self.filled else None

    def view(self, tensor: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Return the tokens from `start` up to `stop`, given any tensor of this storage."""
        shape = (*self.shape[: self.axis], stop - start, *self.shape[self.axis + 1 :])
        return tensor.as_strided(shape, self.stride, start * self.stride[self.axis])

    def append(self, past: torch.Tensor, new: Sequence[torch.Tensor], start: int) -> torch.Tensor:
        """Copy `new` behind the content and return a window that begins at `start`."""
        for tensor in new:
            end = self.filled + tensor.shape[self.axis]
            self.view(past, self.filled, end).copy_(tensor)
            self.filled = end
        self.begins[self.filled] = start
        return self.view(past, start, self.filled)


@dataclass(frozen=True)
class OpenEnd:
    """A window that ends where its arena's content ends: rows can be written behind it.

    Attributes:
        window: A view of the arena's storage.
        start: The window's first token.
    """

    arena: Arena
    window: torch.Tensor
    start: int

    @property
    def length(self) -> int:
        """Tokens of the window."""
        return self.arena.filled - self.start

    @property
    def extent(self) -> int:
        """Tokens that it could have without moving."""
        return self.arena.capacity - self.start


class KVArenas:
    """The arenas of one worker, known by their storages; holds none of them alive."""

    def __init__(self, budget: MemoryBudget, empty: Empty = empty_on_host) -> None:
        """Make no arena yet; `empty` returns memory for one, given its shape and dtype."""
        self._budget = budget
        self._empty = empty
        self._arenas: dict[int, tuple[StorageWeakRef, Arena]] = {}  # a weak reference keeps an address from reuse
        self.counts = ArenaCounts()

    def __len__(self) -> int:
        return len(self._arenas)

    def cat(self, tensors: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
        """Return what `torch.cat` returns, as a window of an arena where that can be done unnoticed."""
        parts = [tensor for tensor in tensors if tensor.dim() != 1 or tensor.numel()]  # torch.cat skips those
        axis = _growing_axis(tensors, parts, dim)
        if axis is None:
            return self._plain(tensors, dim)
        past, *new = parts
        arena = self._arena(past)
        if arena is None or arena.axis != axis or not new:
            return self._move(tensors, parts, axis)
        window = arena.window(past)
        grown = sum(tensor.shape[axis] for tensor in new)
        if window is None or window[1] != arena.filled or not 0 < grown <= arena.capacity - arena.filled:
            return self._move(tensors, parts, axis)
        self._count(ArenaCounts(appends=1, appended_nbytes=sum(tensor.nbytes for tensor in new)))
        return arena.append(past, new, window[0])

    def open_end(self, tensor: torch.Tensor) -> OpenEnd | None:
        """Return what can be written behind, where a tensor is a window that ends where an arena's content does."""
        arena = self._arena(tensor)
        window = None if arena is None else arena.window(tensor)
        if arena is None or window is None or window[1] != arena.filled:
            return None
        return OpenEnd(arena, tensor, window[0])

    def extended(self, end: OpenEnd, extent: int) -> torch.Tensor:
        """Return a window made `extent` tokens long; what lies behind the content is finite."""
        arena = end.arena
        if not arena.clean:  # uninitialised memory may hold NaN, which no weight of zero takes out of a sum
            arena.view(end.window, arena.filled, arena.capacity).zero_()
            arena.clean = True
        return arena.view(end.window, end.start, end.start + extent)

    def appended(self, end: OpenEnd, rows: int) -> torch.Tensor:
        """Take `rows` that were written behind a window as content, and return the window that ends with them."""
        arena = end.arena
        arena.filled += rows
        arena.begins[arena.filled] = end.start
        nbytes = rows * (arena.shape.numel() // arena.capacity) * end.window.itemsize
        self._count(ArenaCounts(appends=1, appended_nbytes=nbytes))
        return arena.view(end.window, end.start, arena.filled)

    def holds(self, storage_key: int) -> bool:
        """Whether a storage (by its address) is an arena."""
        return storage_key in self._arenas

    def remove(self, storage_key: int) -> Arena | None:
        """Forget a storage that is offloaded and return how far it was filled, None if it is no arena."""
        entry = self._arenas.pop(storage_key, None)
        if entry is None:
            return None
        entry[1].clean = False
        return entry[1]

    def add(self, storage: torch.UntypedStorage, arena: Arena) -> None:
        """Know a storage as an arena."""
        self._forget_dead()
        self._arenas[storage._cdata] = (StorageWeakRef(storage), arena)

    def private_copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a window's values as eager PyTorch would hold them: a contiguous `cat`, or the end of one."""
        arena = self._arena(tensor)
        assert arena is not None
        window = arena.window(tensor)
        if window is None or window[1] not in arena.begins:  # only a Program that lies about its inputs gets here
            return tensor.clone(memory_format=torch.contiguous_format)
        start, stop = window
        begin = arena.begins[stop]
        whole = arena.view(tensor, begin, stop).clone(memory_format=torch.contiguous_format)
        self._count(ArenaCounts(moves=1, moved_nbytes=whole.nbytes))
        return whole.narrow(arena.axis, start - begin, stop - start)

    def is_whole(self, tensor: torch.Tensor) -> bool:
        """Say whether a window is a contiguous `cat` as eager PyTorch would hold it, and no part of one."""
        arena = self._arena(tensor)
        window = arena.window(tensor) if arena is not None else None
        return arena is not None and window is not None and arena.begins.get(window[1]) == window[0]

    def _arena(self, tensor: torch.Tensor) -> Arena | None:
        entry = self._arenas.get(tensor.untyped_storage()._cdata)
        return None if entry is None else entry[1]

    def _move(self, tensors: Sequence[torch.Tensor], parts: Sequence[torch.Tensor], axis: int) -> torch.Tensor:
        """Make an arena of `parts`; where memory is short, a tensor without room."""
        length = sum(part.shape[axis] for part in parts)
        first = parts[0]
        shape = (*first.shape[:axis], length + max(MIN_ROOM, length // 2), *first.shape[axis + 1 :])
        if not self._budget.has_room(torch.Size(shape).numel() * first.itemsize):
            return self._plain(tensors, axis)
        whole = self._empty(torch.Size(shape), first.dtype)
        arena = Arena(whole.shape, whole.stride(), axis, 0)
        self.add(whole.untyped_storage(), arena)
        *past, new = parts
        self._count(ArenaCounts(1, new.nbytes, int(bool(past)), sum(part.nbytes for part in past)))
        return arena.append(whole, parts, 0)

    def _plain(self, tensors: Sequence[torch.Tensor], dim: int) -> torch.Tensor:
        result = torch.cat(tensors, dim)  # type: ignore[arg-type]  # a list, in the words of the generated code
        self._count(ArenaCounts(moves=1, moved_nbytes=result.nbytes))
        return result

    def _forget_dead(self) -> None:
        for key in [key for key, (reference, _) in self._arenas.items() if reference.expired()]:
            del self._arenas[key]

    def _count(self, more: ArenaCounts) -> None:
        self.counts = self.counts.plus(more)


def _growing_axis(tensors: Sequence[torch.Tensor], parts: Sequence[torch.Tensor], dim: int) -> int | None:
    """Return the axis along which a cache could grow in place, None where only `torch.cat` itself will do."""
    if not parts:
        return None
    first = parts[0]
    rank = first.dim()
    axis = dim + rank if dim < 0 else dim
    if not 0 <= axis < rank - 1 or not first.numel() or not _keeps_order(first):
        return None
    shape = first.shape
    for tensor in tensors:  # the skipped ones too: torch.cat promotes to their dtypes
        if tensor.dtype is not first.dtype or tensor.device != first.device:
            return None
    for part in parts[1:]:
        other = part.shape
        if len(other) != rank or other[:axis] != shape[:axis] or other[axis + 1 :] != shape[axis + 1 :]:
            return None
    row_nbytes = shape[axis + 1 :].numel() * first.itemsize
    return axis if row_nbytes % ROW_ALIGNMENT_NBYTES == 0 and not first.dtype.is_complex else None


def _keeps_order(tensor: torch.Tensor) -> bool:
    """Whether `torch.cat` makes a plain contiguous result of it, and none in a channels-last format."""
    return tensor.dim() not in (4, 5) or tensor.stride(1) > tensor.stride(-1)
