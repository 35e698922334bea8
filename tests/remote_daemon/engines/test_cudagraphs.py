"""Recorded graphs: what eager gives, no other session's tensors, and back to eager where recording cannot be had."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from dynamo_genie.engines import CUDAGRAPHS, EAGER
from dynamo_genie.remote_daemon.engines import cudagraphs
from dynamo_genie.remote_daemon.engines.cudagraphs import MAX_ONCE_SEEN, MAX_TIMES_TOO_LITTLE, CudaGraphs
from dynamo_genie.remote_daemon.engines.eager import compile_program
from dynamo_genie.remote_daemon.engines.engine import NotNow, RunningProgram
from dynamo_genie.remote_daemon.engines.traits import traits_of
from dynamo_genie.remote_daemon.operators.resolved_program import resolve_program
from dynamo_genie.runtime.wire import program as p
from tests.remote_daemon.recorded import TapeRecorder

CPU = torch.device("cpu")
WEIGHT, CACHE, NOTHING = p.ValueFacts(role="weight"), p.ValueFacts(role="kv_cache"), p.ValueFacts()


def step_program() -> p.Program:
    """A decode step in small: weight [4, 4], cache [8, 4], token [1, 4], position [1] -> result, view of the cache."""
    nodes = (
        p.Node("aten.mm.default", (p.Ref(2), p.Ref(0))),  # 4
        p.Node("aten.index_copy.default", (p.Ref(1), 0, p.Ref(3), p.Ref(4))),  # 5
        p.Node("aten.copy_.default", (p.Ref(1), p.Ref(5))),  # 6
        p.Node("aten.mm.default", (p.Ref(4), p.Ref(0))),  # 7
        p.Node("aten.slice.Tensor", (p.Ref(1), 0, 2, 4)),  # 8
        p.Node("aten.slice.Tensor", (p.Ref(7), 1, 1, 3)),  # 9
    )
    inputs = (p.TensorInput("float32", 2),) * 3 + (p.TensorInput("int64", 1),)
    facts = (WEIGHT, CACHE, NOTHING)
    program = p.Program(
        p.PROGRAM_VERSION, inputs, (), nodes, (p.Ref(7), p.Ref(8), p.Ref(9), 5), (1,),
        facts=facts, fact_of=(0, 1, *(2,) * 8),
    )  # fmt: skip
    p.validate_program(program)
    return program


class Engine:
    """An engine on a tape, beside eager on tensors of its own."""

    def __init__(self, program: p.Program) -> None:
        self.recorder = TapeRecorder(CPU)
        resolved = resolve_program(program, CPU)
        self.eager = compile_program(resolved, ())
        self.graphs = CudaGraphs(self.eager, traits_of(resolved), self.recorder)
        self.running = RunningProgram("p", self.eager, CUDAGRAPHS, "asked for", self.graphs, fell_back=False)

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        return self.running(list(inputs))


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def tensors() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(4, 4), torch.zeros(8, 4)


def token(position: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(1, 4), torch.tensor([position])


def test_every_call_gives_what_eager_gives_and_writes_the_cache_once() -> None:
    engine = Engine(step_program())
    weight, cache = tensors()
    expected_cache = cache.clone()
    for position in range(8):
        new, where = token(position)
        expected = engine.eager([weight, expected_cache, new, where])
        found = engine(weight, cache, new, where)
        assert torch.equal(cache, expected_cache)
        for ours, theirs in zip(found, expected, strict=True):
            assert torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs
    assert (engine.recorder.recordings, engine.recorder.replays) == (1, 7)


def test_results_outlive_the_next_call_and_share_memory_as_eager_results_do() -> None:
    engine = Engine(step_program())
    weight, cache = tensors()
    kept = []
    for position in range(5):
        result, view, part, _ = engine(weight, cache, *token(position))
        kept.append((result, result.clone()))
        assert view.data_ptr() == cache[2:].data_ptr()
        assert part.untyped_storage()._cdata == result.untyped_storage()._cdata
        result[0, 1] = 7.0
        assert part[0, 0] == 7.0
        kept[-1][1][0, 1] = 7.0
    assert all(torch.equal(result, then) for result, then in kept)


def test_two_sessions_in_turns_have_a_recording_each() -> None:
    engine = Engine(step_program())
    weight, mine = tensors()
    yours = torch.zeros(8, 4)
    right = {id(mine): mine.clone(), id(yours): yours.clone()}
    for position in range(6):
        for cache in (mine, yours):
            new, where = token(position)
            engine.eager([weight, right[id(cache)], new, where])
            engine(weight, cache, new, where)
            assert torch.equal(mine, right[id(mine)])
            assert torch.equal(yours, right[id(yours)])
    assert engine.graphs.recordings == 2
    assert engine.recorder.replays == 10


def test_another_weight_of_the_same_shape_is_never_taken_for_the_recorded_one() -> None:
    engine = Engine(step_program())
    weight, cache = tensors()
    for position in range(3):
        engine(weight, cache, *token(position))
    other = torch.randn(4, 4)
    for position in range(3):
        new, where = token(position)
        assert torch.equal(engine(other, cache, new, where)[0], new @ other @ other)


def test_recordings_keep_no_tensor_alive() -> None:
    engine = Engine(step_program())
    weight, cache = tensors()
    for position in range(3):
        engine(weight, cache, *token(position))
    import gc
    import weakref

    gone = weakref.ref(cache)
    engine.graphs._recordings.clear()  # the tape, unlike a CUDA graph, holds what it replays on
    del cache
    gc.collect()
    assert gone() is None


def test_the_least_recently_used_recording_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudagraphs, "MAX_RECORDINGS", 2)
    engine = Engine(step_program())
    weight, _ = tensors()
    caches = [torch.zeros(8, 4) for _ in range(3)]
    for cache in caches:
        for position in range(2):
            engine(weight, cache, *token(position))
    assert engine.graphs.recordings == 2
    before = engine.recorder.recordings
    engine(weight, caches[2], *token(3))
    assert engine.recorder.recordings == before


def test_numbers_are_part_of_what_is_recorded() -> None:
    nodes = (p.Node("aten.mul.Scalar", (p.Ref(0), p.Ref(1))),)
    engine = Engine(p.Program(p.PROGRAM_VERSION, (p.TensorInput(), p.ScalarInput("int")), (), nodes, (p.Ref(2),)))
    x = torch.ones(3)
    for factor in (2, 2, 2, 3, 3, 2):
        assert engine(x, factor)[0].tolist() == [factor] * 3
    assert engine.recorder.recordings == 2


@pytest.mark.parametrize(("times", "engine_then"), [(3, CUDAGRAPHS), (MAX_TIMES_TOO_LITTLE + 1, EAGER)])
def test_a_program_that_finds_no_memory_for_a_recording_tries_again_later(times: int, engine_then: str) -> None:
    engine = Engine(step_program())
    engine.recorder.too_little = times
    weight, cache = tensors()
    expected_cache = cache.clone()
    for position in range(times + 3):
        new, where = token(position % 8)
        [expected, *_] = engine.eager([weight, expected_cache, new, where])
        assert torch.equal(engine(weight, cache, new, where)[0], expected)
        assert torch.equal(cache, expected_cache)
    assert engine.running.engine == engine_then
    assert engine.recorder.recordings == int(engine_then == CUDAGRAPHS)


def test_what_cannot_be_recorded_runs_eager_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    nodes = (p.Node("aten._local_scalar_dense.default", (p.Ref(0),)), p.Node("aten.add.Scalar", (p.Ref(1), p.Ref(2))))
    engine = Engine(p.Program(p.PROGRAM_VERSION, (p.TensorInput(),) * 2, (), nodes, (p.Ref(3),)))
    for value in range(4):
        assert engine(torch.tensor(value), torch.ones(2))[0].tolist() == [1.0 + value] * 2
    assert (engine.running.engine, engine.running.fell_back) == (EAGER, True)
    assert "operation not permitted when stream is capturing" in engine.running.reason
    assert caplog.text.count("program p runs eager: cudagraphs failed: it cannot be recorded") == 1


def test_calls_that_never_come_back_are_left_to_eager() -> None:
    nodes = (p.Node("aten.mul.Scalar", (p.Ref(0), p.Ref(1))),)
    engine = Engine(p.Program(p.PROGRAM_VERSION, (p.TensorInput(), p.ScalarInput("int")), (), nodes, (p.Ref(2),)))
    for factor in range(MAX_ONCE_SEEN + 3):
        assert engine(torch.ones(2), factor)[0].tolist() == [factor] * 2
    assert engine.running.engine == EAGER
    assert "none came back" in engine.running.reason
    assert engine.recorder.recordings == 0


def test_a_large_input_without_facts_must_stay_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudagraphs, "MAX_COPIED_NBYTES", 8)
    nodes = (p.Node("aten.neg.default", (p.Ref(0),)),)
    engine = Engine(p.Program(p.PROGRAM_VERSION, (p.TensorInput(),), (), nodes, (p.Ref(1),)))
    stays = torch.ones(100)
    for value in range(4):
        stays.fill_(value)
        assert engine(stays)[0].tolist() == [-value] * 100
    assert engine.recorder.replays == 3


def test_a_small_view_of_what_is_written_is_read_where_it_lies() -> None:
    nodes = (
        p.Node("aten.copy_.default", (p.Ref(0), p.Ref(2))),
        p.Node("aten.neg.default", (p.Ref(1),)),
    )
    engine = Engine(p.Program(p.PROGRAM_VERSION, (p.TensorInput(),) * 3, (), nodes, (p.Ref(4),), (0,)))
    whole = torch.zeros(4)
    for value in range(1, 5):
        assert engine(whole, whole[:2], torch.full((4,), float(value)))[0].tolist() == [-value] * 2


# --- tensors that are more than their layout -------------------------------------------------------------


def one_operator(key: str, *more: Any, dtype: str = "float32", rank: int = 1) -> Engine:
    nodes = (p.Node(key, (p.Ref(0), *more)),)
    return Engine(p.Program(p.PROGRAM_VERSION, (p.TensorInput(dtype, rank),), (), nodes, (p.Ref(1),)))


def test_an_expanded_input_is_copied_to_one_that_repeats_its_elements_too() -> None:
    engine = one_operator("aten.neg.default", rank=2)
    for value in range(4):
        given = torch.full((1, 3), float(value)).expand(4, 3)
        assert torch.equal(engine(given)[0], -given)
    assert engine.recorder.replays == 3


def test_windows_that_slide_over_one_memory_are_read_where_they_lie() -> None:
    engine = one_operator("aten.neg.default", rank=2)
    memory = torch.zeros(6)
    for value in range(4):
        memory.fill_(value)
        assert torch.equal(engine(memory.unfold(0, 3, 1))[0], torch.full((4, 3), -float(value)))
    assert engine.recorder.replays == 3


def test_conjugates_are_not_taken_for_the_tensor_at_their_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudagraphs, "MAX_COPIED_NBYTES", 0)
    engine = one_operator("aten.mul.Scalar", 2, dtype="complex64")
    plain = torch.tensor([1 + 2j])
    for given in (plain, plain, plain, plain.conj(), plain, plain.conj()):
        assert torch.equal(engine(given)[0], given * 2)
    assert engine.recorder.replays == 3


def test_conjugates_that_are_copied_in_are_copied_as_what_they_stand_for() -> None:
    engine = one_operator("aten.mul.Scalar", 2, dtype="complex64")
    for part in range(4):
        given = torch.tensor([1 + part * 1j]).conj()
        assert torch.equal(engine(given)[0], given * 2)
    assert engine.recorder.replays == 3


def test_a_result_that_stands_for_conjugates_is_left_to_eager() -> None:
    engine = one_operator("aten._conj.default", dtype="complex64")
    given = torch.tensor([1 + 2j])
    for _ in range(3):
        assert torch.equal(engine(given)[0].resolve_conj(), torch.tensor([1 - 2j]))
    assert engine.running.engine == EAGER


def test_what_cannot_be_recorded_now_is_recorded_later(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = one_operator("aten.neg.default")
    monkeypatch.setattr(engine.graphs, "_recorder", busy := Busy(engine.recorder))
    for value in range(6):
        busy.now = value < 4
        assert engine(torch.full((2,), float(value)))[0].tolist() == [-value] * 2
    assert (engine.running.engine, engine.recorder.recordings, engine.recorder.replays) == (CUDAGRAPHS, 1, 2)


class Busy:
    """A recorder that cannot record now."""

    def __init__(self, recorder: TapeRecorder) -> None:
        self._recorder = recorder
        self.now = True

    def record(self, run: Callable[[], tuple[Any, ...]]) -> tuple[Callable[[], None], tuple[Any, ...]]:
        if self.now:
            raise NotNow("busy")
        return self._recorder.record(run)
