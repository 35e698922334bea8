"""Recorded steps of growing caches: the values of the own form, rows written in place, and all that is no such step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from dynamo_genie.engines import CUDAGRAPHS
from dynamo_genie.remote_daemon.engines.cudagraphs import MAX_ONCE_SEEN, CudaGraphs
from dynamo_genie.remote_daemon.engines.eager import compile_program
from dynamo_genie.remote_daemon.engines.engine import RunningProgram
from dynamo_genie.remote_daemon.engines.growing import GrowingGraphs
from dynamo_genie.remote_daemon.engines.traits import traits_of
from dynamo_genie.remote_daemon.memory.kv_arena import MIN_ROOM, KVArenas
from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget
from dynamo_genie.remote_daemon.operators.fixed_step import fixed_step
from dynamo_genie.remote_daemon.operators.resolved_program import ResolvedProgram, resolve_program
from dynamo_genie.remote_daemon.operators.used_rows import attend_masked
from dynamo_genie.runtime.wire import program as p
from tests.remote_daemon.growing_steps import CPU, STEP, growing_step, rows
from tests.remote_daemon.recorded import TapeRecorder


def nan_memory(shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    """Return what uninitialised memory may hold at its worst."""
    return torch.full(shape, torch.nan, dtype=dtype)


class Decoder:
    """A session that decodes, by the engine and by plain concatenation."""

    def __init__(self, engine: Engine, length: int = 3, seed: int = 0, batch: int = 1) -> None:
        self._engine = engine
        self._batch, self._seed = batch, seed
        self.caches = [rows(length, seed=seed + i, batch=batch) for i in range(2)]
        self.right = [cache.clone() for cache in self.caches]

    def step(self, count: int = 1) -> None:
        """Take a step, and compare all its results with those of plain operators."""
        self._seed += 10
        new, number = rows(count, seed=self._seed, batch=self._batch), self.right[0].size(2)
        found = self._engine.running([*self.caches, new, number, number])
        expected = self._engine.plain([*self.right, new, number, number])
        torch.testing.assert_close(found[0], expected[0])
        assert torch.equal(found[1], expected[1])
        assert torch.equal(found[2], expected[2])
        assert torch.equal(found[3], expected[3])
        self.caches, self.right = list(found[1:3]), list(expected[1:3])

    def crop(self, length: int) -> None:
        self.caches = [cache[:, :, :length] for cache in self.caches]
        self.right = [cache[:, :, :length] for cache in self.right]

    def reorder(self) -> None:
        order = torch.tensor([1, 0])
        self.caches = [cache.index_select(0, order) for cache in self.caches]
        self.right = [cache.index_select(0, order) for cache in self.right]


class ForgetfulRecorder(TapeRecorder):
    """Holds nothing but what it returns, as a CUDA graph holds no tensors; it does not replay."""

    def record(self, run: Callable[[], tuple[Any, ...]]) -> tuple[Callable[[], None], tuple[Any, ...]]:
        _, results = super().record(run)
        return (lambda: None), results


class Engine:
    """The engine on a tape, and plain operators beside it."""

    def __init__(self, own: ResolvedProgram | None = None, recorder: TapeRecorder | None = None) -> None:
        own = own or growing_step()
        self.arenas = KVArenas(MemoryBudget(1 << 40), nan_memory)
        step = fixed_step(own, attend_masked)
        self.recorder = recorder or TapeRecorder(CPU)
        graphs = CudaGraphs(compile_program(step.resolved, ()), traits_of(step.resolved), self.recorder)
        eager = compile_program(own, (), self.arenas)
        growing = GrowingGraphs(eager, step, graphs, self.arenas, torch.tensor)
        self.running = RunningProgram("p", eager, CUDAGRAPHS, "asked for", growing, fell_back=False)
        self.plain = compile_program(own, ())


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def test_steps_are_replayed_and_copy_what_is_new_only(engine: Engine) -> None:
    decoder = Decoder(engine)
    for _ in range(3):  # into arenas, the own form, the fixed form
        decoder.step()
    before, address = engine.arenas.counts, decoder.caches[0].data_ptr()
    for _ in range(40):
        decoder.step()
    more = engine.arenas.counts.plus(before, -1)
    assert (engine.recorder.recordings, engine.recorder.replays) == (1, 40)
    assert decoder.caches[0].data_ptr() == address
    assert (more.appends, more.moves) == (80, 0)
    assert more.appended_nbytes == 40 * 2 * rows(1).nbytes


def test_a_full_arena_moves_and_its_successor_is_recorded(engine: Engine) -> None:
    decoder = Decoder(engine)
    for _ in range(3 * MIN_ROOM):
        decoder.step()
    assert engine.arenas.counts.moves > 2
    assert engine.recorder.recordings >= 2
    assert engine.recorder.replays > 2 * MIN_ROOM
    assert not engine.running.fell_back


def test_sessions_in_turns_never_see_each_others_rows(engine: Engine) -> None:
    decoders = [Decoder(engine, length=3 + i, seed=100 * i) for i in range(3)]
    for _ in range(12):
        for decoder in decoders:
            decoder.step()
    assert engine.recorder.recordings == 3


def test_a_continuation_of_what_was_cropped_leaves_the_longer_one_alone(engine: Engine) -> None:
    decoder = Decoder(engine)
    for _ in range(8):
        decoder.step()
    longer = [cache.clone() for cache in decoder.right]
    kept = list(decoder.caches)
    decoder.crop(5)
    for _ in range(6):
        decoder.step()
    assert all(torch.equal(cache, right) for cache, right in zip(kept, longer, strict=True))


def test_two_continuations_of_one_cache(engine: Engine) -> None:
    one = Decoder(engine)
    for _ in range(4):
        one.step()
    other = Decoder(engine, seed=7)
    other.caches, other.right = list(one.caches), list(one.right)
    for _ in range(5):
        one.step()
        other.step()


def test_reordered_caches_and_other_counts_of_rows(engine: Engine) -> None:
    decoder = Decoder(engine, batch=2)
    for count in (1, 1, 1, 2, 2, 2, 1, 3):
        decoder.step(count)
        decoder.step(count)
    decoder.reorder()
    for _ in range(4):
        decoder.step()
    assert not engine.running.fell_back


def test_keys_and_values_in_one_arena_run_the_own_form(engine: Engine) -> None:
    decoder = Decoder(engine)
    for _ in range(3):
        decoder.step()
    decoder.caches = [decoder.caches[0], decoder.caches[0]]
    decoder.right = [decoder.right[0], decoder.right[0]]
    for _ in range(6):  # arenas of different capacity
        decoder.step()
    assert engine.recorder.replays > 2


def test_keys_and_values_of_different_length_are_left_to_the_own_form(engine: Engine) -> None:
    decoder = Decoder(engine)
    for _ in range(4):
        decoder.step()
    replays = engine.recorder.replays
    [keys, values] = decoder.caches
    engine.running([keys[:, :, 1:], values, rows(1), 5, 5])
    assert engine.recorder.replays == replays


def test_rows_of_a_step_that_failed_cannot_spoil_the_next(engine: Engine) -> None:
    """Keys were written before the values were refused; the next step reads where they lie, with no weight."""
    decoder = Decoder(engine)
    for _ in range(4):
        decoder.step()
    spoiled = torch.full_like(rows(1), torch.nan)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.recorder, "fails", True)
        with pytest.raises(RuntimeError, match="lost"):
            engine.running([*decoder.caches, spoiled, 5, 5])
    decoder.right[0] = decoder.right[0][:, :, 1:]
    decoder.right[1] = decoder.right[1][:, :, 1:]
    decoder.caches = [cache[:, :, 1:] for cache in decoder.caches]
    for _ in range(4):
        decoder.step()


def test_new_rows_that_are_known_to_stay_may_change_in_number() -> None:
    """What stays is no part of what a call looks like; the number of rows to append must be, nevertheless."""
    program = growing_step().program
    engine = Engine(resolve_program(msgspec.structs.replace(program, fact_of=(1, 1, 1, *program.fact_of[3:])), CPU))
    decoder = Decoder(engine)
    for count in (2, 2, 2, 2, 2, 3, 3, 4, 2, 2, 50, 2, 2):
        decoder.step(count)


def test_recordings_hold_no_cache_alive() -> None:
    engine = Engine(recorder=ForgetfulRecorder(CPU))
    storages = []
    for seed in range(20):
        caches = [rows(3, seed=seed), rows(3, seed=seed + 1)]
        for _ in range(5):
            caches = list(engine.running([*caches, rows(1), 3, 3])[1:3])
        storages += [StorageWeakRef(cache.untyped_storage()) for cache in caches]
        del caches
    assert engine.recorder.recordings  # one or more: memory that is free again may be given out again
    assert [storage for storage in storages if not storage.expired()] == []


@pytest.mark.parametrize("new", [rows(1).half(), torch.empty(0)], ids=["half", "empty"])
def test_new_rows_that_cat_would_take(new: torch.Tensor) -> None:
    nodes = (
        *STEP[:2],
        p.Node("aten.ones.default", (p.Items((1, 4, 1, 8)),)),  # 7: the query
        p.Node("genie.attention", (p.Ref(7), p.Ref(5), p.Ref(6))),
        p.Node("getitem", (p.Ref(8), 0)),
    )
    engine = Engine(growing_step(nodes, (p.Ref(9), p.Ref(5), p.Ref(6))))
    decoder_caches = right = [rows(3), rows(3, seed=1)]
    for given in (*[rows(1)] * 5, *[new] * 4, *[rows(1)] * 3):
        found = engine.running([*decoder_caches, given, 0, 0])
        expected = engine.plain([*right, given, 0, 0])
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs)
        decoder_caches, right = list(found[1:]), list(expected[1:])


def test_a_program_whose_caches_never_lie_in_arenas_is_left_to_eager_and_says_so() -> None:
    engine = Engine()
    for seed in range(MAX_ONCE_SEEN + 1):
        engine.running([rows(3), rows(3), rows(1, seed=seed), 3, 3])
    assert engine.running.fell_back
    assert "cannot be appended to" in engine.running.reason
