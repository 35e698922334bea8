"""Recorded graphs for decode steps whose caches grow: the fixed form of a step, on the arenas in which the caches lie.

    call 1       runs the own form: how many rows a step appends is seen in its results
    call 2       runs the fixed form, one operator after the other
    call 3...    record and replay it

A step goes to the fixed form only when each of its caches ends where its arena's content ends, with room behind it,
and no two lie in one arena. All others (a cache that was cropped, one that was reordered, one whose arena is full) run
the own form, which copies them into arenas of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch

from dynamo_genie.remote_daemon.engines.cudagraphs import MAX_ONCE_SEEN, CudaGraphs, Recording
from dynamo_genie.remote_daemon.engines.engine import Executable, Unfit
from dynamo_genie.remote_daemon.engines.signature import Signature
from dynamo_genie.remote_daemon.memory.kv_arena import KVArenas, OpenEnd
from dynamo_genie.remote_daemon.operators.fixed_step import FixedStep
from dynamo_genie.remote_daemon.operators.used_rows import ROWS

OnDevice: TypeAlias = Callable[[Sequence[int]], torch.Tensor]
"""Returns numbers as a tensor [n] int64 on the device."""

_Rows: TypeAlias = tuple[int, ...]
"""How many rows a step appends to each cache."""


class GrowingGraphs:
    """An engine: a program whose caches grow, and the recordings of its fixed form."""

    def __init__(
        self, eager: Executable, step: FixedStep, graphs: CudaGraphs, arenas: KVArenas, on_device: OnDevice
    ) -> None:
        """Run `eager`, the own form, where `graphs`, the recorded fixed form, cannot."""
        self._eager = eager
        self._graphs = graphs
        self._arenas = arenas
        self._step = step
        self._on_device = on_device
        self._rows: dict[Signature, _Rows | None] = {}  # of a call that looks like this; None: another dtype
        self._recorded_rows: WeakKeyDictionary[Recording, _Rows] = WeakKeyDictionary()
        self._missed = 0

    def __call__(self, inputs: list[Any]) -> tuple[Any, ...]:
        """Run the program; empties `inputs`.

        Raises:
            Unfit: Its calls differ too much, or it cannot be recorded.
        """
        ends = self._ends(inputs)
        if ends is None:
            return self._own_form(inputs)
        extents = self._extents(ends)
        fixed = self._fixed(inputs, ends, extents)
        recording = self._graphs.recorded(fixed)
        rows = self._recorded_rows.get(recording) if recording is not None else None
        if rows is None:
            key = self._graphs.key_of(fixed)
            if key not in self._rows:
                return self._first_time(key, inputs)
            rows = self._rows[key]
            if recording is not None and rows is not None:
                self._recorded_rows[recording] = rows
        if rows is None or not self._fits(ends, extents, rows):
            return self._own_form(inputs)
        try:
            found = list(self._graphs.run(fixed, recording))
        except BaseException:
            for end in ends:  # rows may have been written behind the content, and may not be finite
                end.arena.clean = False
            raise
        for cache, end, more in zip(self._step.caches, ends, rows, strict=True):
            found[cache.output] = self._arenas.appended(end, more)
        self._missed = 0
        inputs.clear()
        return tuple(found)

    def _own_form(self, inputs: list[Any]) -> tuple[Any, ...]:
        self._missed += 1
        if self._missed > MAX_ONCE_SEEN and not self._graphs.recordings:
            raise Unfit(f"{MAX_ONCE_SEEN} calls differed, or had caches that cannot be appended to where they lie")
        return self._eager(inputs)

    def _first_time(self, key: Signature, inputs: list[Any]) -> tuple[Any, ...]:
        caches = self._step.caches
        before = [(inputs[cache.input].dtype, inputs[cache.input].size(ROWS)) for cache in caches]
        found = self._own_form(inputs)
        after = [(found[cache.output].dtype, found[cache.output].size(ROWS)) for cache in caches]
        if len(self._rows) >= MAX_ONCE_SEEN:
            self._rows.clear()
        alike = all(old[0] == new[0] for old, new in zip(before, after, strict=True))
        self._rows[key] = tuple(new[1] - old[1] for old, new in zip(before, after, strict=True)) if alike else None
        return found

    def _ends(self, inputs: Sequence[Any]) -> list[OpenEnd] | None:
        """Return where each cache can be appended to in an arena of its own; None where one cannot."""
        caches = self._step.caches
        found = [self._arenas.open_end(inputs[cache.input]) for cache in caches]
        ends = [end for end in found if end is not None and end.arena.axis == end.window.dim() + ROWS]
        return ends if len({id(end.arena) for end in ends}) == len(caches) else None

    def _extents(self, ends: Sequence[OpenEnd]) -> list[int]:
        """Return how far each cache is seen, keys no further than their values reach, nor these than those."""
        extents = [end.extent for end in ends]
        for pair in self._step.pairs:
            for cache in pair:
                extents[cache] = min(extents[other] for other in pair)
        return extents

    def _fits(self, ends: Sequence[OpenEnd], extents: Sequence[int], rows: _Rows) -> bool:
        """Whether there is room for `rows`, and keys and values are alike."""
        alike = all(
            extents[key] == extents[value] and ends[key].length == ends[value].length and rows[key] == rows[value]
            for key, value in self._step.pairs
        )
        return alike and all(e.length + more <= extent for e, more, extent in zip(ends, rows, extents, strict=True))

    def _fixed(self, inputs: Sequence[Any], ends: Sequence[OpenEnd], extents: Sequence[int]) -> list[Any]:
        """Return what the fixed form takes."""
        fixed = list(inputs)
        counts = [end.length for end in ends] + [inputs[position] for position in self._step.added]
        for position in self._step.idle:
            fixed[position] = 0
        for cache, end, extent in zip(self._step.caches, ends, extents, strict=True):
            fixed[cache.input] = self._arenas.extended(end, extent)
        return [*fixed, self._on_device(counts)]
