"""What a decode step's new tokens cost in the daemon: appended behind caches in arenas, against `torch.cat`."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dynamo_genie.bench.alternate import in_turns
from dynamo_genie.bench.report import Figure, Measured, at_most_times, summary
from dynamo_genie.remote_daemon.memory.kv_arena import ArenaCounts, KVArenas
from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget

CAT_TIMES = 1.0
"""Appending must not take longer than copying, however short the cache is."""

Cat = Callable[[Sequence[Tensor], int], Tensor]


@dataclass(frozen=True)
class ArenaBenchPlan:
    """Caches like those of a model, and how many steps to time at each length."""

    layers: int
    heads: int
    head_dim: int
    lengths: tuple[int, ...]
    steps: int


class _Caches:
    """The keys and values of all layers, continued by one token a step."""

    def __init__(self, plan: ArenaBenchPlan, length: int, cat: Cat) -> None:
        shape = (1, plan.heads, length, plan.head_dim)
        self._cat = cat
        self._caches = [torch.randn(shape) for _ in range(2 * plan.layers)]
        self._new = torch.randn(1, plan.heads, 1, plan.head_dim)
        self.step()  # the first one moves every cache into its arena

    def step(self) -> None:
        """Append one token to every cache."""
        self._caches = [self._cat([cache, self._new], -2) for cache in self._caches]


def measure_arenas(plan: ArenaBenchPlan) -> Measured:
    """Time steps of both kinds in turns at each length; moves into larger arenas are part of the time."""
    figures: list[Figure] = []
    details: dict[str, object] = {}
    for length in plan.lengths:
        arenas = KVArenas(MemoryBudget(1 << 62))
        growing, copied = _Caches(plan, length, arenas.cat), _Caches(plan, length, torch.cat)  # type: ignore[arg-type]
        before = arenas.counts
        samples = in_turns({"arena": growing.step, "cat": copied.step}, plan.steps)
        ours, floor = (statistics.median(samples[name]) * 1e3 for name in ("arena", "cat"))
        figures.append(at_most_times(f"append to all caches at {length:,} tokens", ours, floor, "ms", CAT_TIMES))
        details[f"step_ms_{length}"] = {name: summary(s, 1e3) for name, s in samples.items()}
        details[f"bytes_a_step_{length}"] = _bytes_a_step(arenas.counts.plus(before, -1), plan.steps)
    return Measured(figures, details)


def _bytes_a_step(counts: ArenaCounts, steps: int) -> dict[str, float]:
    return {"appended": counts.appended_nbytes / steps, "moved": counts.moved_nbytes / steps}
