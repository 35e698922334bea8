"""What a decode step's new tokens cost in the daemon: appended behind caches in arenas, against `torch.cat`."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dynamo_genie.bench.alternate import in_turns
from dynamo_genie.bench.report import Figure, Measured, at_most_times, summary
from dynamo_genie.remote_daemon.memory.kv_arena import KVArenas
from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget

CAT_TIMES = 1.0
"""Appending must not take longer than copying, however short the cache is."""

Cat = Callable[[Sequence[Tensor], int], Tensor]


class _Caches:
    """The keys and values of all layers, continued by one token a step."""

    def __init__(self, layers: int, heads: int, head_dim: int, length: int, cat: Cat) -> None:
        self._cat = cat
        self._caches = [torch.randn(1, heads, length, head_dim) for _ in range(2 * layers)]
        self._new = torch.randn(1, heads, 1, head_dim)
        self.step()  # the first one moves every cache into its arena

    def step(self) -> None:
        """Append one token to every cache."""
        self._caches = [self._cat([cache, self._new], -2) for cache in self._caches]


def measure_arenas(layers: int, heads: int, head_dim: int, lengths: Sequence[int], steps: int) -> Measured:
    """Time steps of both kinds in turns, with caches like those of a model, at each length of the caches.

    Moves into larger arenas are part of the time.
    """
    figures: list[Figure] = []
    details: dict[str, object] = {}
    for length in lengths:
        arenas = KVArenas(MemoryBudget(1 << 62))
        growing = _Caches(layers, heads, head_dim, length, arenas.cat)
        copied = _Caches(layers, heads, head_dim, length, torch.cat)  # type: ignore[arg-type]
        before = arenas.counts
        samples = in_turns({"arena": growing.step, "cat": copied.step}, steps)
        ours, floor = (statistics.median(samples[name]) * 1e3 for name in ("arena", "cat"))
        figures.append(at_most_times(f"append to all caches at {length:,} tokens", ours, floor, "ms", CAT_TIMES))
        details[f"step_ms_{length}"] = {name: summary(s, 1e3) for name, s in samples.items()}
        counts = arenas.counts.plus(before, -1)
        details[f"bytes_a_step_{length}"] = {
            "appended": counts.appended_nbytes / steps, "moved": counts.moved_nbytes / steps,
        }  # fmt: skip
    return Measured(figures, details)
