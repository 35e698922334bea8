"""The measured speed of a link, for placement, and how the link between client and worker is measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

ROUND_TRIPS = 5
PROBE_NBYTES = 1 << 20
LARGE_PROBE_NBYTES = 4 << 20
SLOW_S = 0.1
"""A link that takes longer than this for the first probe is measured well enough by it."""


class MeasuredLink(NamedTuple):
    """Half of the best round trip, and throughput one way."""

    latency_s: float
    bytes_per_s: float


def measure_client_link(round_trip: Callable[[], None], upload: Callable[[memoryview], None]) -> MeasuredLink:
    """Measure with a few round trips and one or two uploads."""
    round_trip_s = min(_elapsed_s(round_trip) for _ in range(ROUND_TRIPS))
    nbytes = PROBE_NBYTES
    elapsed_s = _elapsed_s(lambda: upload(memoryview(bytes(nbytes))))
    if elapsed_s < SLOW_S:
        nbytes = LARGE_PROBE_NBYTES
        elapsed_s = _elapsed_s(lambda: upload(memoryview(bytes(nbytes))))
    return MeasuredLink(round_trip_s / 2, nbytes / max(elapsed_s - round_trip_s, 1e-6))


def _elapsed_s(action: Callable[[], None]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
