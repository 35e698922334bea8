"""How fast a link is: what placement needs to know about the ways between machines."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

ROUND_TRIPS = 5
PROBE_NBYTES = 1 << 20
LARGE_PROBE_NBYTES = 4 << 20
SLOW_S = 0.1
"""A link that takes longer than this for the first probe is measured well enough by it."""


class LinkSpeed(NamedTuple):
    """Half of the best round trip, and throughput one way."""

    latency_s: float
    bytes_per_s: float


def measure_session(round_trip: Callable[[], None], upload: Callable[[memoryview], None]) -> LinkSpeed:
    """Measure with a few round trips and one or two uploads."""
    round_trip_s = min(_elapsed_s(round_trip) for _ in range(ROUND_TRIPS))
    nbytes = PROBE_NBYTES
    elapsed_s = _elapsed_s(lambda: upload(memoryview(bytes(nbytes))))
    if elapsed_s < SLOW_S:
        nbytes = LARGE_PROBE_NBYTES
        elapsed_s = _elapsed_s(lambda: upload(memoryview(bytes(nbytes))))
    return LinkSpeed(round_trip_s / 2, nbytes / max(elapsed_s - round_trip_s, 1e-6))


def _elapsed_s(action: Callable[[], None]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
