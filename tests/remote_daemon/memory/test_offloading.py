"""Memory of a device that is short: what goes first, and that all of it is there again when it is used.

The device is host memory behind the interfaces of a GPU worker's memory; its pool gets back what dies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dynamo_genie.engines import CUDAGRAPHS
from dynamo_genie.remote_daemon.engines.cudagraphs import CudaGraphs
from dynamo_genie.remote_daemon.engines.eager import compile_program
from dynamo_genie.remote_daemon.engines.engine import RunningProgram
from dynamo_genie.remote_daemon.engines.traits import traits_of
from dynamo_genie.remote_daemon.memory.device_buffers import DeviceBufferStore
from dynamo_genie.remote_daemon.memory.device_memory import DeviceMemory
from dynamo_genie.remote_daemon.memory.host_buffers import HostBufferStore
from dynamo_genie.remote_daemon.memory.offloader import Offloader, longest_idle_first
from dynamo_genie.remote_daemon.memory.pinned_ring import PinnedRing
from dynamo_genie.remote_daemon.memory.weight_store import ResidentWeight, WeightStore
from dynamo_genie.remote_daemon.operators.resolved_program import ResolvedProgram, resolve_program
from dynamo_genie.remote_daemon.worker.programs import Build
from dynamo_genie.remote_daemon.worker.state import WorkerState, open_state
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.runtime.wire.content import chunk_digest, content_digest
from dynamo_genie.runtime.wire.tensor import InlineTensor
from dynamo_genie.tensors import WIRE_DTYPES, spec_of
from tests.remote_daemon.cache_histories import (
    ADD_IN_PLACE,
    APPEND,
    HISTORIES,
    TOTAL,
    Both,
    History,
    program,
    replay,
    tokens,
)
from tests.remote_daemon.engines.test_cudagraphs import step_program
from tests.remote_daemon.recorded import TapeRecorder
from tests.remote_daemon.simulated_device import FakeAllocator, LivePool, PromptDevice, SimulatedDevice
from tests.remote_daemon.worker_in_process import WorkerInProcess

CPU = torch.device("cpu")
BLOCK = 1000
"""Bytes of most tensors here."""


WRITING = p.Program(
    p.PROGRAM_VERSION, (p.TensorInput(), p.TensorInput()), (), ADD_IN_PLACE.nodes, (), mutated_inputs=(0,)
)


class OffloadingWorker:
    """A worker of a device with memory of its own, and its sessions."""

    def __init__(self, limit: int = 1 << 40, host_limit: int = 1 << 40, build: Build | None = None) -> None:
        self.pool = LivePool()
        offloader = Offloader(limit)
        memory = DeviceMemory(limit, self.pool, FakeAllocator(), offloader.free)
        slots = [torch.zeros(7, dtype=torch.uint8) for _ in range(3)]
        buffers = DeviceBufferStore(CPU, memory, PinnedRing(slots, PromptDevice(0)))
        self.state: WorkerState = open_state(buffers, offloader, host_limit=host_limit, build=build)
        assert self.state.host is not None
        self.state.host.smallest = 1

    def session(self) -> Resident:
        return Resident(state=self.state)


class Resident(WorkerInProcess):
    """A session whose tensors come from the pool, and whose time goes on with every command."""

    clock = 0.0

    def send(self, *commands: m.Command) -> list[m.WorkerToClient]:
        Resident.clock += 1
        self.now = Resident.clock
        return super().send(*commands)

    def put(self, tensor: Tensor) -> int:
        self._last += 1
        self.send(m.Put(self._last, inline(tensor)))
        self.check()
        return self._last

    def fill(self, nbytes: int = BLOCK, value: int = 1) -> int:
        return self.put(torch.full((nbytes,), value, dtype=torch.uint8))

    def fetch(self, handle: int) -> Tensor:
        [reply] = self.send(m.Fetch(1, (handle,)))
        if isinstance(reply, m.Failed):
            raise AssertionError(reply.error.message)
        assert isinstance(reply, m.Fetched)
        [found] = reply.tensors
        assert isinstance(found, m.FetchedTensor)
        return torch.frombuffer(bytearray(found.data), dtype=torch.uint8)

    def bind_weight(self, weight: Tensor) -> tuple[int, int]:
        """Store a weight; return its handle, and a binding of TOTAL to it as the first input."""
        handle, binding = self._last + 1, self._last + 2
        self._last += 2
        spec, data = spec_of(weight), bytes(weight.numpy().data)
        digest = content_digest(spec, chunk_digest(data))
        upload = self.session.staging.begin(handle, len(data))
        upload.view[:] = data
        upload.arrived(memoryview(data))
        self.session.staging.finish(handle)
        self.send(m.StoreWeight(digest, spec, handle), m.AdoptWeight(handle, digest, spec))
        self.bind(binding, handle)
        return handle, binding

    def bind(self, binding: int, handle: int) -> None:
        """Make a binding of TOTAL to its first input."""
        self.send(m.BindWeights(binding, self._number(TOTAL), (0,), (handle,)))
        self.check()

    def total(self, binding: int, other: int) -> float:
        """Call TOTAL with its bound weight."""
        self._last += 1
        self.send(m.Call(self._number(TOTAL), binding, (other,), (self._last,)))
        result = float(self.value(self._last))
        self.free([self._last])
        return result


def inline(tensor: Tensor) -> InlineTensor:
    dense = tensor.contiguous()
    return InlineTensor(spec_of(dense), bytes(dense.view(-1).view(torch.uint8).numpy().data))


# --- the order -------------------------------------------------------------------------------------------


class Idle:
    resident_nbytes = 0

    def __init__(self, last_used: float, running: bool = False) -> None:
        self.last_used, self.running = last_used, running

    def offload(self, enough: Callable[[], bool]) -> None: ...

    def weights(self) -> list[ResidentWeight]:
        return []

    def drop_tensor(self, weight: ResidentWeight) -> None: ...


def test_the_longest_idle_session_goes_first_and_the_running_one_never() -> None:
    a, b, c, running = Idle(3.0), Idle(1.0), Idle(2.0), Idle(0.0, running=True)
    assert longest_idle_first([a, b, running, c]) == [b, c, a]


def test_an_offloader_asks_those_that_were_added_and_not_removed_since() -> None:
    asked: list[float] = []

    class Full(Idle):
        resident_nbytes = 10

        def offload(self, enough: Callable[[], bool]) -> None:
            asked.append(self.last_used)

    offloader = Offloader(limit=10)
    offloader.budget.reserve(10, "nothing was added yet, so nobody can be asked")
    assert not offloader.budget.has_room(1)
    buffers = HostBufferStore()
    offloader.add_weights(WeightStore(buffers, offloader.budget))
    first, second = Full(2.0), Full(1.0)
    for session in (first, second):
        offloader.add_session(session)
    assert not offloader.budget.has_room(1)
    offloader.remove_session(second)
    offloader.free(1)
    assert asked == [1.0, 2.0, 2.0]


def test_unused_weights_go_before_anything_of_a_session() -> None:
    worker = OffloadingWorker(limit=4 * BLOCK)
    gone, idle, busy = worker.session(), worker.session(), worker.session()
    gone.bind_weight(torch.ones(BLOCK, dtype=torch.uint8))
    gone.session.close()
    kept = idle.fill(2 * BLOCK)
    busy.fill()
    assert worker.state.weights.nbytes == BLOCK
    busy.fill()
    assert worker.state.weights.nbytes == 0
    assert idle.session.handles.offloaded_nbytes == 0
    busy.fill()
    assert idle.session.handles.offloaded_nbytes == 2 * BLOCK
    assert (idle.fetch(kept) == 1).all()


def test_sessions_give_their_largest_tensors_first_and_only_as_many_as_are_needed() -> None:
    worker = OffloadingWorker(limit=12 * BLOCK)
    old, young, busy = worker.session(), worker.session(), worker.session()
    old_small, old_large = old.fill(), old.fill(3 * BLOCK)
    young.fill(5 * BLOCK)
    busy.fill(3 * BLOCK)
    busy.fill(2 * BLOCK)  # two are wanted: the large one of the old session alone is enough
    assert old.session.handles.offloaded_nbytes == 3 * BLOCK
    assert (old.session.handles.resident_nbytes, young.session.handles.offloaded_nbytes) == (BLOCK, 0)
    busy.fill(3 * BLOCK)
    assert old.session.handles.offloaded_nbytes == 4 * BLOCK
    assert young.session.handles.offloaded_nbytes == 5 * BLOCK
    assert worker.state.budget.used == worker.pool.used == 8 * BLOCK
    for handle in (old_small, old_large):
        assert (old.fetch(handle) == 1).all()
    assert worker.state.budget.used == worker.pool.used <= 12 * BLOCK


# --- and back --------------------------------------------------------------------------------------------


def test_using_a_session_changes_whose_turn_it_is() -> None:
    worker = OffloadingWorker(limit=3 * BLOCK)
    sessions = [worker.session() for _ in range(3)]
    handles = [session.fill(value=i) for i, session in enumerate(sessions)]
    for turn in (0, 1, 2, 1, 0, 2):
        sessions[turn].fill(100)
        assert (sessions[turn].fetch(handles[turn]) == turn).all()
        assert worker.state.budget.used == worker.pool.used <= 3 * BLOCK


@pytest.mark.filterwarnings("ignore:ComplexHalf support")
@pytest.mark.parametrize("dtype", list(WIRE_DTYPES), ids=str)
def test_every_dtype_comes_back_as_it_was(dtype: torch.dtype) -> None:
    worker = OffloadingWorker()
    session = worker.session()
    data = torch.randint(0, 2, (6 * 4 * dtype.itemsize,), dtype=torch.uint8)
    handle = session.put(data.clone().view(dtype).reshape(6, 4))
    session.session.offload(lambda: False)
    assert worker.pool.used == 0
    back = session.value(handle)
    assert (back.dtype, back.shape) == (dtype, (6, 4))
    assert torch.equal(back.contiguous().view(-1).view(torch.uint8), data)


CONJUGATE = program(p.Node("aten._conj.default", (p.Ref(0),)), outputs=(p.Ref(2),), rank=None)


def test_views_share_their_memory_again_and_conjugates_stay_conjugates() -> None:
    session = OffloadingWorker().session()
    base = session.put(torch.tensor([1 + 2j, 3 - 4j]))
    one = session.put(torch.ones(1))
    [view] = session.call(CONJUGATE, base, one)
    session.session.offload(lambda: False)
    session.call(ADD_IN_PLACE, base, one)
    found = session.value(view)
    assert found.is_conj()
    assert torch.equal(found.resolve_conj(), torch.tensor([2 - 2j, 4 + 4j]))


@given(HISTORIES, st.lists(st.booleans(), min_size=25, max_size=25))
def test_any_history_of_caches_equals_eager_with_offloading_anywhere(history: History, offload: list[bool]) -> None:
    worker = OffloadingWorker()
    both = Both(worker.session())
    for out, _ in zip(offload, replay(both, history), strict=False):
        if out:
            both.worker.session.offload(lambda: False)
        else:
            both.check()
    both.check()
    both.worker.session.offload(lambda: False)
    both.worker.session.close()
    state = worker.state
    assert (state.budget.used, state.host_budget.used, worker.pool.used) == (0, 0, 0)


def test_a_cache_that_was_away_grows_in_place_as_before() -> None:
    both = Both(OffloadingWorker().session())
    new = both.put(tokens(1, start=500))
    cache = both.append(both.put(tokens(5)), new)
    branch = both.append(cache, new)
    both.worker.session.offload(lambda: False)
    before = both.worker.session.arena_counts
    both.append(branch, new)  # where the room is
    assert both.worker.session.arena_counts.plus(before, -1).moves == 0
    both.append(cache, new)  # that place is taken
    assert both.worker.session.arena_counts.plus(before, -1).moves == 1
    both.check()


def test_what_a_binding_names_goes_and_comes_back_too() -> None:
    worker = OffloadingWorker()
    session = worker.session()
    handle, other = session.fill(), session.put(torch.zeros(1))
    session.bind(900, handle)
    assert session.total(900, other) == BLOCK
    session.session.offload(lambda: False)
    assert worker.pool.used == 0
    session.call(ADD_IN_PLACE, handle, session.fill())
    assert session.total(900, other) == 2 * BLOCK


def test_what_dies_in_host_memory_leaves_nothing_behind() -> None:
    worker = OffloadingWorker()
    session = worker.session()
    handles = [session.fill() for _ in range(3)]
    session.session.offload(lambda: False)
    assert worker.state.host_budget.used == 3 * BLOCK
    session.free(handles[:2])
    assert worker.state.host_budget.used == session.session.handles.offloaded_nbytes == BLOCK
    session.session.close()
    assert worker.state.host_budget.used == session.session.handles.offloaded_nbytes == 0


# --- recorded graphs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_a_recording_is_never_replayed_on_memory_that_was_given_away(seed: int) -> None:
    """A recorded graph holds addresses; after its tensors went and came back, others may lie there."""
    recorder = TapeRecorder(CPU)

    def build(what: ResolvedProgram, engine: str, name: str) -> RunningProgram:
        eager = compile_program(what, ())
        fast = CudaGraphs(eager, traits_of(what), recorder) if len(what.operators) > 1 else None
        return RunningProgram(name, eager, CUDAGRAPHS, "", fast, fell_back=False)

    generator = torch.Generator().manual_seed(seed)
    worker = OffloadingWorker(build=build)
    session, other = worker.session(), worker.session()
    weight, cache = torch.randn(4, 4, generator=generator), torch.zeros(8, 4)
    there = session.put(weight), session.put(cache)
    what = msgspec.structs.replace(step_program(), outputs=step_program().outputs[:2])
    eager = compile_program(resolve_program(what, CPU), ())
    for position in range(24):
        chance = int(torch.randint(0, 4, (), generator=generator))
        if chance == 0:
            session.session.offload(lambda: False)
            other.put(torch.full((4, 4), float("nan")))  # where the weight and the cache lay, like as not
            other.put(torch.full((8, 4), float("nan")))
        new, where = torch.randn(1, 4, generator=generator), torch.tensor([position % 8])
        [expected, *_] = eager([weight, cache, new, where])
        result, view = session.call(what, *there, session.put(new), session.put(where))
        assert torch.equal(session.value(result), expected)
        session.free([result, view])
    assert torch.equal(session.value(there[1]), cache)
    assert recorder.replays > recorder.recordings > 1


# --- what programs make and what stays ---------------------------------------------------------------------

CACHE_FACTS = dict(facts=(p.ValueFacts(role="kv_cache"), p.ValueFacts()), fact_of=(0, 1, 1))
STEP = p.Program(
    p.PROGRAM_VERSION, (p.TensorInput(), p.TensorInput()), (), ADD_IN_PLACE.nodes, (p.Ref(1),), (0,), **CACHE_FACTS
)
DOUBLE = program(p.Node("aten.add.Tensor", (p.Ref(0), p.Ref(0))), outputs=(p.Ref(2),), rank=None)
VIEW = program(p.Node("aten.slice.Tensor", (p.Ref(0), 0, 10, 20)), outputs=(p.Ref(2),), rank=None)


def test_a_cache_that_a_program_made_moves_to_the_pool_when_a_step_writes_to_it() -> None:
    worker = OffloadingWorker()
    session = worker.session()
    token = session.put(torch.ones(1, dtype=torch.uint8))
    [cache] = session.call(DOUBLE, session.fill(value=3), token)
    [view] = session.call(VIEW, cache, token)
    before = worker.pool.used
    session.call(STEP, cache, token)
    assert worker.pool.used - before == BLOCK
    place = session.value(cache).data_ptr()
    assert session.value(view).data_ptr() == place + 10
    session.call(STEP, cache, token)
    assert session.value(cache).data_ptr() == place, "once"
    assert (session.fetch(view) == 8).all()
    assert (session.fetch(cache) == 8).all()
    assert session.session.handles.resident_nbytes == worker.state.budget.used


def test_a_cache_stays_where_it_was_made_when_the_pool_has_no_room() -> None:
    worker = OffloadingWorker(limit=4 * BLOCK)
    session = worker.session()
    token = session.put(torch.ones(1, dtype=torch.uint8))
    first = session.fill(value=3)
    [cache] = session.call(DOUBLE, first, token)
    rest = session.fill(2 * BLOCK - 10)
    worker.state.buffers.memory._temporaries.held = BLOCK + 8  # type: ignore[attr-defined]
    before = worker.pool.used
    session.call(STEP, cache, token)
    assert worker.pool.used == before
    session.free([rest])
    session.call(STEP, cache, token)
    assert worker.pool.used == before - 2 * BLOCK + 10, "it is not tried at every step"
    assert (session.fetch(cache) == 8).all()


# --- weights ---------------------------------------------------------------------------------------------


def test_a_weight_leaves_only_when_all_who_use_it_are_idle() -> None:
    worker = OffloadingWorker(limit=10 * BLOCK)
    weight = torch.full((4 * BLOCK,), 2, dtype=torch.uint8)
    first, second = worker.session(), worker.session()
    bound = [session.bind_weight(weight) for session in (first, second)]
    assert worker.state.budget.used == 4 * BLOCK
    with pytest.raises(AssertionError, match="memory-limit"):
        second.fill(7 * BLOCK)  # its own weight is in use
    one = second.fill(BLOCK)
    assert second.total(bound[1][1], one) == 8 * BLOCK
    third = worker.session()
    third.fill(9 * BLOCK)
    assert (worker.state.weights.nbytes, worker.pool.used) == (0, 9 * BLOCK)
    third.session.close()
    one = first.fill()
    assert first.total(bound[0][1], one) == 8 * BLOCK
    assert second.total(bound[1][1], one := second.fill()) == 8 * BLOCK
    assert worker.state.weights.nbytes == 4 * BLOCK, "once for both"


def test_a_weight_that_a_binding_names_leaves_the_device_with_it() -> None:
    worker = OffloadingWorker(limit=10 * BLOCK)
    first, greedy = worker.session(), worker.session()
    _, binding = first.bind_weight(torch.full((4 * BLOCK,), 2, dtype=torch.uint8))
    other = first.put(torch.zeros(0, dtype=torch.uint8))
    assert first.total(binding, other) == 8 * BLOCK
    big = greedy.fill(8 * BLOCK)
    assert worker.pool.used == 8 * BLOCK
    greedy.free([big])
    assert first.total(binding, other) == 8 * BLOCK


def test_a_session_that_comes_later_finds_a_weight_in_host_memory_and_one_that_changes_it_gets_a_copy() -> None:
    worker = OffloadingWorker(limit=10 * BLOCK)
    weight = torch.full((4 * BLOCK,), 2, dtype=torch.uint8)
    first, greedy, later = (worker.session() for _ in range(3))
    _, binding = first.bind_weight(weight)
    big = greedy.fill(9 * BLOCK)
    greedy.free([big])
    assert worker.state.host_budget.used == 4 * BLOCK
    other, _ = later.bind_weight(weight)
    assert (worker.state.host_budget.used, worker.state.weights.nbytes) == (0, 4 * BLOCK)
    later.call(WRITING, other, later.put(torch.ones(1, dtype=torch.uint8)))
    assert (later.value(other) == 3).all()
    assert first.total(binding, first.fill()) == 8 * BLOCK
    later.session.close()
    first.session.close()
    assert worker.state.host_budget.used == 0


def test_a_session_that_ended_holds_no_weight_that_its_bindings_named() -> None:
    worker = OffloadingWorker(limit=10 * BLOCK)
    first, other = worker.session(), worker.session()
    _, binding = first.bind_weight(torch.ones(4 * BLOCK, dtype=torch.uint8))
    first.total(binding, first.fill())
    first.session.close()
    other.fill(8 * BLOCK)
    assert worker.pool.used == 8 * BLOCK


def test_a_weight_in_host_memory_whose_users_end_is_forgotten() -> None:
    worker = OffloadingWorker(limit=10 * BLOCK)
    first, greedy = worker.session(), worker.session()
    first.bind_weight(torch.ones(4 * BLOCK, dtype=torch.uint8))
    greedy.fill(9 * BLOCK)
    assert worker.state.host_budget.used == 4 * BLOCK
    first.session.close()
    assert worker.state.host_budget.used == 0


# --- where it does not help ------------------------------------------------------------------------------


def test_nobody_gives_anything_for_what_would_not_fit_even_so() -> None:
    worker = OffloadingWorker(limit=6 * BLOCK)
    idle, busy = worker.session(), worker.session()
    idle.fill(2 * BLOCK)
    busy.fill(3 * BLOCK)
    with pytest.raises(AssertionError, match="memory-limit"):
        busy.fill(4 * BLOCK)
    assert idle.session.handles.offloaded_nbytes == 0
    busy.fill(3 * BLOCK)
    assert idle.session.handles.offloaded_nbytes == 2 * BLOCK


def test_with_no_room_in_host_memory_the_command_fails_and_nothing_is_lost() -> None:
    worker = OffloadingWorker(limit=3 * BLOCK, host_limit=BLOCK)
    idle, busy = worker.session(), worker.session()
    kept = idle.fill(2 * BLOCK, value=7)
    with pytest.raises(AssertionError, match=r"2,000 bytes do not fit: of 3,000 .*--memory-limit"):
        busy.fill(2 * BLOCK)
    assert (idle.fetch(kept) == 7).all()
    assert worker.state.host_budget.used == 0


def test_what_does_not_fit_back_stays_and_comes_back_when_there_is_room() -> None:
    worker = OffloadingWorker(limit=3 * BLOCK)
    session, other = worker.session(), worker.session()
    first = session.fill(2 * BLOCK, value=7)
    other.fill(2 * BLOCK)
    second = session.fill(2 * BLOCK, value=8)  # the other one goes
    other.fill(10)
    with pytest.raises(AssertionError, match="moved to host memory needs 2,000 bytes"):
        session.fetch(first)
    assert (session.fetch(second) == 8).all()
    session.free([second])
    assert (session.fetch(first) == 7).all()


# --- a program that lacks memory -------------------------------------------------------------------------


def lacking(worker: list[OffloadingWorker], wanted: int) -> Build:
    """Programs that find memory for what they make on the way only while the pool uses at most `wanted` bytes."""

    def build(what: ResolvedProgram, engine: str, name: str) -> RunningProgram:
        def run(inputs: list[Any]) -> tuple[Any, ...]:
            if worker[0].pool.used > wanted:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
            inputs.clear()
            return tuple(torch.zeros(1) for _ in what.program.outputs)

        return RunningProgram(name, run, engine, "", None, fell_back=False)

    return build


def test_a_program_that_lacks_memory_runs_again_once_idle_sessions_made_room() -> None:
    workers: list[OffloadingWorker] = []
    workers.append(OffloadingWorker(limit=16 * BLOCK, build=lacking(workers, 6 * BLOCK)))
    idle, busy = workers[0].session(), workers[0].session()
    kept = [idle.fill(2 * BLOCK, value=i) for i in range(5)]
    x = busy.fill()
    busy.call(APPEND, x, x)
    assert idle.session.handles.offloaded_nbytes == 6 * BLOCK, "as much as was needed, an eighth of the limit at a time"
    assert all((idle.fetch(handle) == i).all() for i, handle in enumerate(kept))


def test_a_program_that_writes_to_its_inputs_runs_once() -> None:
    workers: list[OffloadingWorker] = []
    workers.append(OffloadingWorker(limit=16 * BLOCK, build=lacking(workers, 2 * BLOCK)))
    idle, busy = workers[0].session(), workers[0].session()
    idle.fill(4 * BLOCK)
    x = busy.fill()
    with pytest.raises(AssertionError, match="CUDA out of memory"):
        busy.call(WRITING, x, x)
    assert idle.session.handles.offloaded_nbytes == 0


def test_memory_that_the_device_lacks_is_taken_from_idle_sessions_too() -> None:
    worker = OffloadingWorker(limit=10 * BLOCK)
    idle, busy = worker.session(), worker.session()
    kept = idle.fill(4 * BLOCK, value=5)
    temporaries = worker.state.buffers.memory._temporaries  # type: ignore[attr-defined]
    temporaries.held = 5 * BLOCK  # by torch, for what programs make on the way
    busy.fill(4 * BLOCK)
    assert idle.session.handles.offloaded_nbytes == 4 * BLOCK
    temporaries.held = 0
    assert (idle.fetch(kept) == 5).all()


# --- copies on the device's own time -----------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(0, 10_000))
def test_what_is_offloaded_is_what_all_kernels_before_have_made_and_comes_back_before_any_after(
    n: int, seed: int
) -> None:
    device = SimulatedDevice(seed)
    slots = [torch.zeros(7, dtype=torch.uint8) for _ in range(3)]
    buffers = DeviceBufferStore(CPU, DeviceMemory(1 << 20, LivePool(), FakeAllocator()), PinnedRing(slots, device))
    there, made = torch.zeros(n, dtype=torch.uint8), torch.randint(0, 256, (n,), dtype=torch.uint8)
    device.compute(lambda: there.copy_(made))
    host = buffers.offload(there)
    device.compute(lambda: there.zero_())  # its memory is used again
    back, seen = buffers.reload(host), torch.zeros(n, dtype=torch.uint8)
    device.compute(lambda: seen.copy_(back))
    device.synchronize()
    assert torch.equal(seen, made)


def test_a_weight_that_is_viewed_comes_back_with_its_views() -> None:
    worker = OffloadingWorker(limit=3 * BLOCK)
    idle, busy = worker.session(), worker.session()
    content = torch.arange(BLOCK // 4, dtype=torch.int32)
    spec, memory = spec_of(content), content.clone().view(torch.uint8)
    weight = worker.state.weights.load(spec, lambda allocate: (b"w" * 16, memory))
    table = idle.session.handles
    table.adopt(1, weight, viewed=True)
    table.add(2, table.tensor(1)[100:])
    filling = [busy.fill(), busy.fill(), busy.fill()]
    assert weight.tensor is None, "it was offloaded"
    assert torch.equal(busy.fetch(filling[0]), torch.ones(BLOCK, dtype=torch.uint8))
    busy.free(filling)
    assert torch.equal(table.tensor(2), content[100:])
    table.writable(2).zero_()
    assert int(table.tensor(1).sum()) == int(content[:100].sum())
    assert worker.state.weights.hold(b"w" * 16) is weight, "the content stays for others"
