"""torch.cuda, as far as captures go, with the rules that a failed capture breaks. Written from torch's sources.

What it holds to: a stream that captures refuses what waits for the device or asks the driver for memory, and is
invalid from then on; ending an invalid capture raises, and leaves torch's own stream the current one; the allocator
gives nothing back while it thinks that a capture is under way, takes no pool twice, and none whose last graph has gone.
"""

from __future__ import annotations

import itertools
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

FORBIDDEN = "CUDA error: operation not permitted when stream is capturing"
INVALID = "CUDA error: operation failed due to a previous error during capture"


class SimulatedCuda:
    """`torch.cuda`; `tidy` says whether it leaves the pool of a failed capture by itself (torch 2.12 and later)."""

    def __init__(self, *, tidy: bool = False) -> None:
        self._tidy = tidy
        self._numbers = itertools.count(1)
        self._stream = "compute"
        self._underway: dict[tuple[int, int], SimulatedGraph] = {}
        self._pools: Counter[tuple[int, int]] = Counter()
        self._known: set[tuple[int, int]] = set()
        self.valid = True

    # --- what the recorder asks of torch.cuda --------------------------------------------------------------

    def device(self, device: torch.device) -> Any:
        return self._entered(device)

    def current_stream(self) -> str:
        return self._stream

    def set_stream(self, stream: str) -> None:
        self._stream = stream

    def graph_pool_handle(self) -> tuple[int, int]:
        return 0, next(self._numbers)

    def CUDAGraph(self) -> SimulatedGraph:
        return SimulatedGraph(self)

    def graph(self, graph: SimulatedGraph, *, pool: tuple[int, int], capture_error_mode: str) -> SimulatedCapture:
        assert capture_error_mode == "thread_local"
        return SimulatedCapture(self, graph, pool)

    # --- what happens beside it ----------------------------------------------------------------------------

    @property
    def capturing(self) -> bool:
        return self._stream == "capture" and bool(self._underway)

    @property
    def pools(self) -> int:
        """How many pools keep their memory, for graphs or for captures that were never ended."""
        return sum(users > 0 for users in self._pools.values())

    def ask_the_driver(self) -> None:
        """Allocate, free or wait: what no stream that captures allows."""
        if self.capturing:
            self.valid = False
            raise RuntimeError(FORBIDDEN)

    def empty_cache(self) -> None:
        """Give memory back: of the allocator, and of pools that no graph uses any more, but for what is still used."""
        assert not self._underway, "captures_underway.empty() INTERNAL ASSERT FAILED"

    def end_failed(self, device: torch.device, pool: tuple[int, int]) -> bool:
        """`end_failed_capture`."""
        return self._underway.pop(pool, None) is not None

    # --- captures --------------------------------------------------------------------------------------------

    def begin(self, graph: SimulatedGraph, pool: tuple[int, int]) -> None:
        assert pool not in self._known or self._pools[pool] > 0, "use_count > 0 INTERNAL ASSERT FAILED"
        assert pool not in self._underway, "beginAllocateToPool: already recording to mempool_id"
        self._known.add(pool)
        self._pools[pool] += 1
        self._underway[pool] = graph
        self.valid = True

    def end(self, pool: tuple[int, int]) -> None:
        if self._tidy or self.valid:
            del self._underway[pool]
        if not self.valid:
            raise RuntimeError(INVALID)

    def release(self, pool: tuple[int, int]) -> None:
        self._pools[pool] -= 1

    @contextmanager
    def _entered(self, device: torch.device) -> Iterator[None]:
        yield


class SimulatedGraph:
    """A graph: it uses its pool from the end of its capture until it dies."""

    def __init__(self, cuda: SimulatedCuda) -> None:
        self._cuda = cuda
        self.replays = 0

    def use(self, pool: tuple[int, int]) -> None:
        weakref.finalize(self, self._cuda.release, pool).atexit = False

    def replay(self) -> None:
        self.replays += 1


class SimulatedCapture:
    """`torch.cuda.graph`, whose end is not reached where `capture_end` raises."""

    def __init__(self, cuda: SimulatedCuda, graph: SimulatedGraph, pool: tuple[int, int]) -> None:
        self._cuda, self._graph, self._pool = cuda, graph, pool

    def __enter__(self) -> None:
        self._cuda.empty_cache()
        self._before = self._cuda.current_stream()
        self._cuda.set_stream("capture")
        self._cuda.begin(self._graph, self._pool)

    def __exit__(self, *error: object) -> None:
        self._cuda.end(self._pool)
        self._graph.use(self._pool)
        self._cuda.set_stream(self._before)
