"""Host memory that is given out again: never while anybody sees it, the same pages when nobody does."""

from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from dynamo_genie.remote_daemon.memory.host_memory import HUGE_PAGES_FROM_NBYTES
from dynamo_genie.remote_daemon.memory.recycled_memory import RecycledMemory

LARGE = HUGE_PAGES_FROM_NBYTES
KEEP = 4 * LARGE


def test_the_same_pages_are_given_out_when_the_last_view_of_them_is_gone() -> None:
    memory = RecycledMemory()
    first = memory.allocate(LARGE + 5)
    place, view = first.data_ptr(), first[100:200].view(torch.int32)
    del first
    other = memory.allocate(LARGE + 5)
    assert other.data_ptr() != place, "a view lives"
    del view
    again = memory.allocate(LARGE + 7)
    assert again.data_ptr() == place
    assert (again.numel(), again.dtype) == (LARGE + 7, torch.uint8)


def test_a_region_is_not_given_out_for_less_than_half_of_it() -> None:
    memory = RecycledMemory()
    place = memory.allocate(4 * LARGE).data_ptr()
    small = memory.allocate(LARGE)
    assert small.data_ptr() != place
    assert memory.allocate(3 * LARGE).data_ptr() == place


def test_small_memory_is_ordinary_memory() -> None:
    memory = RecycledMemory()
    memory.allocate(LARGE - 1)
    assert memory.idle_nbytes == 0


def test_what_is_kept_is_bounded_and_the_longest_idle_goes_first() -> None:
    memory = RecycledMemory(keep_nbytes=2 * LARGE)
    first, second, third = (memory.allocate(LARGE) for _ in range(3))
    places = [second.data_ptr(), third.data_ptr()]
    del first
    del second
    del third
    assert memory.idle_nbytes == 2 * LARGE
    kept = [memory.allocate(LARGE) for _ in range(2)]
    assert sorted(tensor.data_ptr() for tensor in kept) == sorted(places)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 7), st.integers(LARGE - 2, 3 * LARGE)), max_size=20))
def test_no_two_tensors_ever_share_a_byte(steps: list[tuple[bool, int, int]]) -> None:
    memory = RecycledMemory(keep_nbytes=KEEP)
    alive: dict[int, torch.Tensor] = {}
    for make, name, nbytes in steps:
        if make:
            alive[name] = memory.allocate(nbytes)
        else:
            alive.pop(name, None)
        spans = sorted((t.data_ptr(), t.data_ptr() + t.numel()) for t in alive.values())
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
        assert memory.idle_nbytes <= KEEP
