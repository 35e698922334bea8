"""How fast memory grows is a straight line's slope, without what came while caches filled."""

from __future__ import annotations

import mmap
import os

import pytest

from dynamo_genie.bench.trust.memory_over_time import MemoryOverTime, MemoryUse, growth_mib


def test_growth_is_the_slope_in_ten_minutes() -> None:
    seconds = [5.0 + 3 * step for step in range(40)]
    assert growth_mib(seconds, [100_000 + 512 * step for step in range(40)], 0) == pytest.approx((100, 0))
    assert growth_mib(seconds, [100_000] * 40, 0) == (0, 0)


def test_what_comes_in_the_warm_up_is_not_judged() -> None:
    seconds = [float(second) for second in range(100)]
    sizes = [1000 * second if second < 40 else 50_000 for second in range(100)]
    assert growth_mib(seconds, sizes, 40) == (0, 0)
    assert growth_mib(seconds, sizes, 20)[0] > 1


def test_memory_that_is_taken_shows() -> None:
    memory = MemoryOverTime({"this": os.getpid()})
    memory.look()
    with mmap.mmap(-1, 32 << 20) as taken:  # what `bytes` takes may be there already
        taken.write(b"x" * len(taken))
        memory.look()
    before, after = memory.rss_kib["this"]
    assert after - before >= 30 << 10
    use = MemoryUse.of(os.getpid())
    assert 0 < use.pss_kib <= use.rss_kib
    assert use.descriptors > 2
