"""A budget: tensors count from the first byte, what is kept beside them from where it is more than a little."""

from __future__ import annotations

import pytest

from dynamo_genie.errors import QuotaExceeded
from dynamo_genie.remote_daemon.memory.memory_budget import FREE_OVERHEAD_NBYTES, MemoryBudget


def test_a_little_overhead_leaves_the_whole_limit_to_tensors() -> None:
    budget = MemoryBudget(100)
    budget.reserve_overhead(FREE_OVERHEAD_NBYTES, "handles")
    budget.reserve(100, "a tensor")
    assert (budget.used, budget.taken) == (100, 100)


def test_more_overhead_takes_room_from_tensors_and_gives_it_back() -> None:
    budget = MemoryBudget(100)
    budget.reserve_overhead(FREE_OVERHEAD_NBYTES + 60, "handles")
    assert (budget.used, budget.taken) == (0, 60)
    with pytest.raises(QuotaExceeded, match=r"a tensor needs 41 bytes but 0 and 8,388,668 for handles .* of 100 are"):
        budget.reserve(41, "a tensor")
    budget.release_overhead(60)
    budget.reserve(100, "a tensor")


def test_overhead_that_would_pass_the_limit_is_refused() -> None:
    budget = MemoryBudget(100)
    budget.reserve(50, "a tensor")
    with pytest.raises(QuotaExceeded, match="handles needs"):
        budget.reserve_overhead(FREE_OVERHEAD_NBYTES + 51, "handles")
    budget.reserve_overhead(FREE_OVERHEAD_NBYTES + 50, "handles")
    assert not budget.has_room(1)


def test_overhead_makes_unneeded_tensors_go() -> None:
    def make_room(nbytes: int) -> None:
        budget.release(80)

    budget = MemoryBudget(100, make_room=make_room)
    budget.reserve(80, "an unused weight")
    budget.reserve_overhead(FREE_OVERHEAD_NBYTES + 30, "handles")
    assert budget.taken == 30
