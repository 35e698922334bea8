"""Caches that grow in place: every value stays what a plain tensor would hold; appending copies what is new."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from hypothesis import given
from torch import Tensor

from dynamo_genie.remote_daemon.memory.kv_arena import MIN_ROOM, ArenaCounts, KVArenas
from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire import program as p
from tests.remote_daemon.cache_histories import (
    CROP,
    FLATTEN,
    HISTORIES,
    READ_AND_WRITE,
    TOTAL,
    TRANSPOSE,
    WHOLE_STORAGE,
    Both,
    History,
    replay,
    tokens,
)
from tests.remote_daemon.worker_in_process import WorkerInProcess

ROW_NBYTES = 2 * 3 * 4 * 4  # of one token: batch, heads and head dimension of the caches here, in float32


@pytest.fixture
def arenas() -> KVArenas:
    return KVArenas(MemoryBudget(1 << 40))


# --- the arena itself ------------------------------------------------------------------------------------


def test_appending_copies_only_what_is_new(arenas: KVArenas) -> None:
    cache = arenas.cat([tokens(5), tokens(1)], -2)
    before = arenas.counts
    for step in range(40):
        new = tokens(1, start=1000 * step)
        expected = torch.cat([cache, new], -2)
        cache = arenas.cat([cache, new], -2)
        assert torch.equal(cache, expected)
    assert arenas.counts.plus(before, -1) == ArenaCounts(40, 40 * ROW_NBYTES, 0, 0)


def test_room_runs_out_and_the_cache_moves_into_a_larger_arena(arenas: KVArenas) -> None:
    cache = expected = tokens(1)
    for step in range(3 * MIN_ROOM):
        cache = arenas.cat([cache, tokens(1, start=step)], 2)
        expected = torch.cat([expected, tokens(1, start=step)], 2)
    assert torch.equal(cache, expected)
    assert arenas.counts.moves == 3


def test_two_continuations_of_one_cache_do_not_meet(arenas: KVArenas) -> None:
    root = arenas.cat([tokens(5), tokens(1)], 2)
    left, right = (arenas.cat([root, tokens(1, start=start)], 2) for start in (500, 700))
    left, right = (arenas.cat([branch, tokens(2, start=9)], 2) for branch in (left, right))
    base = torch.cat([tokens(5), tokens(1)], 2)
    assert torch.equal(root, base)
    assert torch.equal(left, torch.cat([base, tokens(1, start=500), tokens(2, start=9)], 2))
    assert torch.equal(right, torch.cat([base, tokens(1, start=700), tokens(2, start=9)], 2))


def test_a_sliding_window_appends_in_place(arenas: KVArenas) -> None:
    window = arenas.cat([tokens(5), tokens(1)], 2)[:, :, -4:]
    expected = window.clone()
    before = arenas.counts.moves
    for step in range(20):
        window = arenas.cat([window, tokens(1, start=step)], 2)[:, :, -4:]
        expected = torch.cat([expected, tokens(1, start=step)], 2)[:, :, -4:]
    assert torch.equal(window, expected)
    assert arenas.counts.moves == before


def test_a_private_copy_is_what_eager_would_hold(arenas: KVArenas) -> None:
    window = arenas.cat([arenas.cat([tokens(5), tokens(1)], 2)[:, :, -4:], tokens(1)], 2)[:, :, -3:]
    eager = torch.cat([torch.cat([tokens(5), tokens(1)], 2)[:, :, -4:], tokens(1)], 2)[:, :, -3:]
    copy = arenas.private_copy(window)
    assert torch.equal(copy, eager)
    assert (copy.stride(), copy.storage_offset()) == (eager.stride(), eager.storage_offset())
    assert copy.untyped_storage().nbytes() == eager.untyped_storage().nbytes()


def test_an_arena_dies_with_its_last_window(arenas: KVArenas) -> None:
    windows = [arenas.cat([tokens(5), tokens(1)], 2) for _ in range(5)]
    assert len(arenas) == 5
    del windows
    gc.collect()
    survivor = arenas.cat([tokens(5), tokens(1)], 2)
    assert len(arenas) == 1
    assert arenas.holds(survivor.untyped_storage()._cdata)


def test_the_address_of_a_dead_arena_names_no_other_tensor(arenas: KVArenas) -> None:
    for _ in range(50):
        dead = arenas.cat([tokens(5), tokens(1)], 2)
        size = dead.untyped_storage().nbytes() // 4
        del dead
        fresh = [torch.zeros(size) for _ in range(4)]
        assert not any(arenas.holds(tensor.untyped_storage()._cdata) for tensor in fresh)


def test_where_memory_is_short_there_is_no_room_and_no_failure() -> None:
    arenas = KVArenas(MemoryBudget(1000))
    cache = arenas.cat([tokens(5), tokens(1)], 2)
    assert cache.is_contiguous()
    assert len(arenas) == 0


UNUSUAL: dict[str, tuple[list[Tensor], int]] = {
    "two dtypes": ([tokens(2), tokens(1).double()], 2),
    "an empty tensor of another dtype": ([torch.zeros(0, dtype=torch.float64), tokens(1)], 2),
    "an empty one-dimensional tensor": ([torch.zeros(0), tokens(2), tokens(1)], 2),
    "only an empty one and a cache": ([torch.zeros(0), tokens(2)], -2),
    "empty ones alone": ([torch.zeros(0), torch.zeros(0)], 0),
    "one dimension": ([torch.ones(4), torch.ones(3)], 0),
    "nothing new": ([tokens(2), tokens(0)], 2),
    "nothing old": ([tokens(0), tokens(2)], 2),
    "the last dimension": ([tokens(2), tokens(2)], -1),
    "the first dimension": ([tokens(2), tokens(2)], 0),
    "one tensor": ([tokens(2)], 2),
    "the same twice": ([tokens(2)] * 2, 2),
    "channels last": ([torch.randn(2, 4, 3, 8).to(memory_format=torch.channels_last)] * 2, 2),
    "rows that are not aligned": ([torch.randn(2, 3, 4, 5), torch.randn(2, 3, 1, 5)], 2),
    "complex numbers": ([torch.randn(2, 4, 2, dtype=torch.complex64)] * 2, 1),
    "conjugates": ([torch.randn(2, 4, 2, dtype=torch.complex64).conj()] * 2, 1),
    "booleans": ([torch.ones(2, 3, 16, dtype=torch.bool)] * 2, 1),
    "a transposed cache": ([tokens(3).transpose(1, 2), tokens(3).transpose(1, 2)], 1),
    "an expanded one": ([torch.ones(1, 1, 1, 4).expand(2, 3, 2, 4), tokens(1)], 2),
}


@pytest.mark.parametrize(("tensors", "dim"), UNUSUAL.values(), ids=UNUSUAL.keys())
def test_whatever_is_joined_gives_what_torch_gives(arenas: KVArenas, tensors: list[Tensor], dim: int) -> None:
    expected = torch.cat(tensors, dim)
    for _ in range(2):
        found = arenas.cat(tensors, dim)
        assert found.dtype is expected.dtype
        assert torch.equal(found, expected)
    again = arenas.cat([found, *tensors[1:]], dim) if tensors[1:] else found
    assert torch.equal(again, torch.cat([expected, *tensors[1:]], dim) if tensors[1:] else expected)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("tensors", "dim"),
    [([tokens(2), torch.ones(2, 2, 1, 4)], 2), ([tokens(2), torch.ones(3)], 2), ([tokens(2)], 7), ([], 0)],
)
def test_what_torch_refuses_is_refused_alike(arenas: KVArenas, tensors: list[Tensor], dim: int) -> None:
    with pytest.raises((RuntimeError, IndexError, ValueError)) as expected:
        torch.cat(tensors, dim)
    with pytest.raises(expected.type):
        arenas.cat(tensors, dim)


# --- in a session ----------------------------------------------------------------------------------------


@pytest.fixture
def both() -> Both:
    return Both()


def grown(both: Both) -> tuple[int, int]:
    """A cache in an arena, and a token."""
    new = both.put(tokens(1, start=500))
    return both.append(both.put(tokens(5)), new), new


def test_a_step_appends_in_place(both: Both) -> None:
    cache, new = grown(both)
    before = both.worker.session.arena_counts
    both.append(cache, new)
    both.check()
    assert both.worker.session.arena_counts.plus(before, -1) == ArenaCounts(1, ROW_NBYTES, 0, 0)
    assert len(both.worker.session.handles.arena_views) == 2


def test_writing_into_a_cache_reaches_no_other_one(both: Both) -> None:
    cache, new = grown(both)
    longer = both.append(cache, new)
    both.write(cache, both.put(torch.ones(1)))
    both.check()
    both.write(longer, both.put(torch.full((1,), 3.0)))
    both.append(longer, new)
    both.check()
    assert cache not in both.worker.session.handles.arena_views


def test_a_write_is_seen_where_the_same_cache_is_read(both: Both) -> None:
    cache, _ = grown(both)

    def eager(x: Tensor, y: Tensor) -> Tensor:
        y.add_(1)
        return x.clone()

    both.run(READ_AND_WRITE, eager, cache, cache)
    both.check()


@pytest.mark.parametrize(
    ("view", "eager"),
    [(CROP, lambda x, y: x[:, :, :-1]), (TRANSPOSE, lambda x, y: x.transpose(1, 2)),
     (FLATTEN, lambda x, y: x.view(-1)), (WHOLE_STORAGE, lambda x, y: x.as_strided((24,), (1,), 0))],
    ids=["crop", "transpose", "flatten", "whole storage"],
)  # fmt: skip
def test_a_view_of_a_cache_shares_its_memory_as_in_eager(both: Both, view: p.Program, eager: Any) -> None:
    cache, new = grown(both)
    sliding = both.slide(cache, new)
    views = [both.run(view, eager, handle, new) for handle in ((cache,) if view is FLATTEN else (cache, sliding))]
    both.check()
    for handle in (*views, cache, sliding):
        both.write(handle, both.put(torch.ones(1)))
        both.check()


def test_sums_over_a_cache_are_taken_in_the_order_of_eager(both: Both) -> None:
    both.put(torch.zeros(1))
    cache = both.append(both.put(torch.randn(2, 3, 37, 4)), both.put(torch.randn(2, 3, 1, 4)))
    both.run(TOTAL, lambda x, y: x.sum(), cache, cache)
    both.check()


def test_described_and_patched_caches_are_ordinary_tensors(both: Both) -> None:
    cache, new = grown(both)
    longer = both.append(cache, new)
    [described] = both.worker.send(m.Describe(1, (cache,)))
    assert isinstance(described, m.Described)
    assert described.specs[0].stride == both.eager[cache].stride()
    assert both.worker.session.handles.writable(longer).is_contiguous()
    both.check()


def test_a_bound_cache_is_an_ordinary_tensor(both: Both) -> None:
    cache, new = grown(both)
    [_] = both.worker.call(TOTAL, cache, new)
    cache = both.append(cache, new)
    both.worker.send(m.BindWeights(1, 1, (0,), (cache,)))
    both.worker.check()
    assert cache not in both.worker.session.handles.arena_views


def test_memory_is_counted_once_and_given_back(both: Both) -> None:
    cache, new = grown(both)
    handles = both.worker.session.handles
    for _ in range(5):
        cache = both.append(cache, new)
    storages = {
        tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes()
        for tensor in map(both.worker.value, both.eager)
    }
    assert handles.resident_nbytes == both.worker.budget.used == sum(storages.values())
    both.write(cache, both.put(torch.ones(1)))
    for handle in list(both.eager):
        both.free(handle)
    assert handles.resident_nbytes == both.worker.budget.used == 0
    assert not handles.arena_views


def test_a_cache_that_cannot_leave_its_arena_for_want_of_memory_stays_as_it_is() -> None:
    both = Both(WorkerInProcess(memory_limit=12_000))
    cache, _ = grown(both)
    one = both.put(torch.ones(1))
    both.worker.budget.limit = both.worker.budget.used
    with pytest.raises(AssertionError, match="memory-limit"):
        both.write(cache, one)
    both.check()
    both.worker.budget.limit = 1 << 40
    both.write(cache, one)
    both.check()


@given(HISTORIES)
def test_any_history_of_caches_equals_eager(history: History) -> None:
    both = Both()
    for _ in replay(both, history):
        both.check()
