"""Recorded graphs for decode steps whose caches grow: the fixed form of a step, on the arenas in which the caches lie.

    call 1       runs the own form: how many rows a step appends is seen in its results
    call 2       runs the fixed form, recorded or not as `cudagraphs` decides
    call 3...    replay it

A step goes to the fixed form only when each of its caches ends where its arena's content ends, with room behind it,
and no two lie in one arena. All others (a cache that was cropped, one that was reordered, one whose arena is full) run
the own form, which copies them into arenas of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch

from dynamo_genie.remote_daemon.engines.cudagraphs import MAX_ONCE_SEEN, CudaGraphs
from dynamo_genie.remote_daemon.engines.engine import Executable
from dynamo_genie.remote_daemon.engines.signature import Signature, signature_of
from dynamo_genie.remote_daemon.memory.kv_arena import KVArenas, OpenEnd
from dynamo_genie.remote_daemon.operators.fixed_step import FixedStep
from dynamo_genie.remote_daemon.operators.used_rows import ROWS

OnDevice: TypeAlias = Callable[[Sequence[int]], torch.Tensor]
"""Returns numbers as a tensor [n] int64 on the device."""


class GrowingGraphs:
    """An engine: a program whose caches grow, and the recordings of its fixed form."""

    def __init__(
        self, eager: Executable, step: FixedStep, graphs: CudaGraphs, arenas: KVArenas, on_device: OnDevice
    ) -> None:
        """Run `eager`, the own form, where `graphs`, the recorded fixed form, cannot."""
        self._eager = eager
        self._graphs = graphs
        self._arenas = arenas
        self._caches = step.caches
        self._pairs = step.pairs
        self._added = step.added
        self._idle = step.idle
        self._on_device = on_device
        held = {cache.input for cache in step.caches} | step.idle | graphs.resident
        self._free = tuple(i for i in range(len(step.resolved.program.inputs) - 1) if i not in held)
        self._rows: dict[Signature, tuple[int, ...] | None] = {}  # None: another dtype than the cache's

    def __call__(self, inputs: list[Any]) -> tuple[Any, ...]:
        """Run the program; empties `inputs`.

        Raises:
            Unfit: Its calls differ too much, or it cannot be recorded.
        """
        key = signature_of(inputs, self._free)
        if key not in self._rows:
            return self._first_time(key, inputs)
        rows = self._rows[key]
        ends = self._ends(inputs) if rows else None
        extents = self._extents(ends, rows) if ends and rows else None
        if ends is None or extents is None or rows is None:
            return self._eager(inputs)
        try:
            found = list(self._graphs(self._fixed(inputs, ends, extents)))
        except BaseException:
            for end in ends:  # rows may have been written behind the content, and may not be finite
                end.arena.clean = False
            raise
        for cache, end, more in zip(self._caches, ends, rows, strict=True):
            found[cache.output] = self._arenas.appended(end, more)
        inputs.clear()
        return tuple(found)

    def _first_time(self, key: Signature, inputs: list[Any]) -> tuple[Any, ...]:
        before = [(inputs[cache.input].dtype, inputs[cache.input].size(ROWS)) for cache in self._caches]
        found = self._eager(inputs)
        if len(self._rows) >= MAX_ONCE_SEEN:
            self._rows.clear()
        after = [(found[cache.output].dtype, found[cache.output].size(ROWS)) for cache in self._caches]
        alike = all(old[0] == new[0] for old, new in zip(before, after, strict=True))
        self._rows[key] = tuple(new[1] - old[1] for old, new in zip(before, after, strict=True)) if alike else None
        return found

    def _ends(self, inputs: Sequence[Any]) -> list[OpenEnd] | None:
        """Return where each cache can be appended to in an arena of its own; None where one cannot."""
        found = [self._arenas.open_end(inputs[cache.input]) for cache in self._caches]
        ends = [end for end in found if end is not None and end.arena.axis == end.window.dim() + ROWS]
        return ends if len({id(end.arena) for end in ends}) == len(self._caches) else None

    def _extents(self, ends: Sequence[OpenEnd], rows: Sequence[int]) -> list[int] | None:
        """Return how far each cache can reach, keys and their values alike; None where there is no room for `rows`."""
        extents = [end.extent for end in ends]
        for pair in self._pairs:
            for cache in pair:
                extents[cache] = min(extents[other] for other in pair)
        alike = all(
            extents[key] == extents[value] and ends[key].length == ends[value].length and rows[key] == rows[value]
            for key, value in self._pairs
        )
        fits = all(end.length + more <= extent for end, more, extent in zip(ends, rows, extents, strict=True))
        return extents if alike and fits else None

    def _fixed(self, inputs: Sequence[Any], ends: Sequence[OpenEnd], extents: Sequence[int]) -> list[Any]:
        """Return what the fixed form takes."""
        fixed = list(inputs)
        counts = [end.length for end in ends] + [inputs[position] for position in self._added]
        for position in self._idle:
            fixed[position] = 0
        for cache, end, extent in zip(self._caches, ends, extents, strict=True):
            fixed[cache.input] = self._arenas.extended(end, extent)
        return [*fixed, self._on_device(counts)]
