"""What a GPU worker does with its memory, on host memory: one budget, copies that are never early, every dtype."""

from __future__ import annotations

import contextlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynamo_genie.errors import OptionError, ProtocolError
from dynamo_genie.remote_daemon.memory.cupy_memory import CupyPool
from dynamo_genie.remote_daemon.memory.device_buffers import DIRECT_NBYTES, DeviceBufferStore
from dynamo_genie.remote_daemon.memory.device_memory import DeviceMemory
from dynamo_genie.remote_daemon.memory.pinned_ring import SMALL_NBYTES, PinnedRing
from dynamo_genie.remote_daemon.worker.device import choose_device
from dynamo_genie.runtime.wire.tensor import TensorSpec
from dynamo_genie.tensors import WIRE_DTYPES
from tests.remote_daemon.simulated_device import FakeAllocator, FakePool, PiecedPool, SimulatedDevice

CPU = torch.device("cpu")


# --- one budget ------------------------------------------------------------------------------------------


def test_what_the_pool_holds_is_taken_from_what_torch_may_hold() -> None:
    pool, temporaries = FakePool(), FakeAllocator()
    memory = DeviceMemory(1000, pool, temporaries)
    assert temporaries.allowed == 1000
    memory.allocate(300)
    assert temporaries.allowed == 700
    pool.free(300)
    assert temporaries.allowed == 700, "the pool keeps what was freed"
    memory.make_room_for_temporaries()
    assert temporaries.allowed == 1000


def test_torchs_idle_memory_goes_before_a_tensor_is_refused() -> None:
    pool, temporaries = FakePool(), FakeAllocator(held=800, idle=500)
    memory = DeviceMemory(1000, pool, temporaries)
    memory.allocate(600)
    assert (temporaries.trims, pool.trims) == (1, 0)
    assert (memory.held, temporaries.allowed) == (900, 400)


def test_memory_that_was_freed_is_used_again_without_asking_anybody() -> None:
    pool, temporaries = FakePool(), FakeAllocator(held=500)
    memory = DeviceMemory(1000, pool, temporaries)
    memory.allocate(500)
    pool.free(500)
    memory.allocate(400)
    assert (temporaries.trims, pool.trims, pool.held) == (0, 0, 500)


def test_what_does_not_fit_is_out_of_memory_with_all_figures() -> None:
    memory = DeviceMemory(1000, FakePool(), FakeAllocator(held=300))
    memory.allocate(600)
    with pytest.raises(torch.OutOfMemoryError, match="200 bytes do not fit: of 1,000 the tensors that stay use 600"):
        memory.allocate(200)
    memory.allocate(100)


def test_idle_memory_in_pieces_is_given_back_and_asked_for_again() -> None:
    pool, temporaries = FakePool(), FakeAllocator()
    memory = DeviceMemory(1000, pool, temporaries)
    pool.fails = 1
    assert memory.allocate(10).numel() == 10
    assert (temporaries.trims, pool.trims) == (1, 1)
    pool.fails = 2
    with pytest.raises(torch.OutOfMemoryError):
        memory.allocate(10)


def test_memory_in_pieces_is_no_excuse_for_more_than_the_limit() -> None:
    pool, temporaries = PiecedPool(), FakeAllocator()
    memory = DeviceMemory(100_000, pool, temporaries)
    kept = [memory.allocate(10_240) for _ in range(4)]
    temporaries.held = 50_000
    del kept[1], kept[1]  # 20,480 bytes are idle, in two pieces that the driver gave
    kept.append(memory.allocate(15_000))
    assert memory.held <= memory.limit
    assert temporaries.allowed == memory.limit - pool.held
    with pytest.raises(torch.OutOfMemoryError):
        memory.allocate(40_000)


def test_what_a_refusal_gave_back_is_torchs() -> None:
    pool, temporaries = PiecedPool(), FakeAllocator()
    memory = DeviceMemory(10_240, pool, temporaries)
    kept = memory.allocate(5_120)
    del kept
    with pytest.raises(torch.OutOfMemoryError):
        memory.allocate(20_000)
    assert (pool.held, temporaries.allowed) == (0, 10_240)


def test_room_as_things_are_is_what_the_pool_can_make_of_its_own() -> None:
    pool, temporaries = PiecedPool(), FakeAllocator(held=4_096, idle=4_096)
    asked: list[int] = []
    memory = DeviceMemory(10_240, pool, temporaries, asked.append)
    kept = [memory.allocate(2_048) for _ in range(3)]
    assert memory.allocate_at_once(512) is None
    del kept[0], kept[1]
    assert memory.allocate_at_once(4_096) is not None, "what was idle in two pieces is one now"
    assert (asked, temporaries.trims, pool.held) == ([], 0, 6_144)


def test_pieces_of_larger_ones_stay_with_the_pool() -> None:
    pool, temporaries = PiecedPool(), FakeAllocator(held=2_048)
    memory = DeviceMemory(10_240, pool, temporaries)
    large = memory.allocate(8_192)
    del large
    kept = [memory.allocate(2_048) for _ in range(4)]
    del kept[0], kept[1]
    assert memory.allocate_at_once(4_096) is None, "idle in two pieces of a larger one"
    with pytest.raises(torch.OutOfMemoryError):
        memory.allocate(4_096)
    assert memory.held <= memory.limit


@given(st.lists(st.tuples(st.integers(1, 9_000), st.integers(0, 5)), max_size=40), st.integers(0, 3_000))
def test_no_order_of_tensors_takes_more_than_the_limit(steps: list[tuple[int, int]], idle: int) -> None:
    pool, temporaries = PiecedPool(), FakeAllocator(held=5_000, idle=idle)
    memory = DeviceMemory(20_480, pool, temporaries)
    kept: list[torch.Tensor] = []
    for nbytes, action in steps:
        if action < 2 and kept:
            del kept[nbytes % len(kept)]
        elif action == 2:
            memory.make_room_for_temporaries()
        else:
            with contextlib.suppress(torch.OutOfMemoryError):
                kept.append(memory.allocate(nbytes))
        assert memory.held <= memory.limit
        assert pool.used >= sum(tensor.numel() for tensor in kept)


# --- the ring --------------------------------------------------------------------------------------------


def ring(device: SimulatedDevice, slots: int = 3, size: int = 7, small: int = 0) -> PinnedRing:
    return PinnedRing([torch.zeros(size, dtype=torch.uint8) for _ in range(slots)], device, small)


def random_bytes(n: int) -> torch.Tensor:
    return torch.randint(0, 256, (n,), dtype=torch.uint8)


SMALL = pytest.mark.parametrize("small", [0, 40], ids=["through the ring", "at once"])


@SMALL
@given(n=st.integers(0, 60), seed=st.integers(0, 10_000))
def test_what_goes_up_comes_down(n: int, seed: int, small: int) -> None:
    device = SimulatedDevice(seed)
    both = ring(device, small=small)
    source, there, back = random_bytes(n), torch.zeros(n, dtype=torch.uint8), torch.zeros(n, dtype=torch.uint8)
    both.upload(there, source)
    both.download(back, there)
    assert torch.equal(back, source)


@SMALL
@given(seed=st.integers(0, 10_000))
def test_the_source_may_change_as_soon_as_an_upload_returns(seed: int, small: int) -> None:
    device = SimulatedDevice(seed)
    source, there = random_bytes(40), torch.zeros(40, dtype=torch.uint8)
    expected = source.clone()
    ring(device, small=small).upload(there, source)
    source.zero_()
    device.synchronize()
    assert torch.equal(there, expected)


@SMALL
@given(seed=st.integers(0, 10_000))
def test_a_kernel_after_an_upload_reads_all_of_it(seed: int, small: int) -> None:
    device = SimulatedDevice(seed)
    source, there, seen = random_bytes(40), torch.zeros(40, dtype=torch.uint8), torch.zeros(40, dtype=torch.uint8)
    ring(device, small=small).upload(there, source)
    device.compute(lambda: seen.copy_(there))
    device.synchronize()
    assert torch.equal(seen, source)


@SMALL
@given(seed=st.integers(0, 10_000))
def test_memory_that_a_kernel_still_reads_is_not_overwritten(seed: int, small: int) -> None:
    device = SimulatedDevice(seed)
    there, seen = random_bytes(40), torch.zeros(40, dtype=torch.uint8)
    before = there.clone()
    device.compute(lambda: seen.copy_(there))  # launched, not run: and its tensor is freed and used again
    ring(device, small=small).upload(there, random_bytes(40))
    device.synchronize()
    assert torch.equal(seen, before)


@given(st.integers(0, 10_000))
def test_a_download_is_of_the_moment_it_was_asked_for(seed: int) -> None:
    device = SimulatedDevice(seed)
    there, back, new = random_bytes(40), torch.zeros(40, dtype=torch.uint8), random_bytes(40)
    device.compute(lambda: there.copy_(new))
    ring(device).download(back, there)
    device.compute(lambda: there.zero_())
    assert torch.equal(back, new)


@pytest.mark.parametrize("seed", range(20))
def test_many_transfers_and_kernels_in_any_order_see_what_a_queue_would_show(seed: int) -> None:
    device = SimulatedDevice(seed)
    one = ring(device, small=40 * (seed % 2))
    torch.manual_seed(seed)
    cells = [torch.zeros(30, dtype=torch.uint8) for _ in range(3)]
    shadow = [cell.clone() for cell in cells]
    for step in range(60):
        i, k = step % 3, (step * 7 + seed) % 3
        kind = int(torch.randint(0, 3, ()))
        if kind == 0:
            new = random_bytes(30)
            one.upload(cells[i], new)
            shadow[i].copy_(new)
            new.zero_()
        elif kind == 1:
            device.compute(lambda i=i, k=k: cells[i].add_(cells[k]))
            shadow[i].add_(shadow[k])
        else:
            back = torch.zeros(30, dtype=torch.uint8)
            one.download(back, cells[i])
            assert torch.equal(back, shadow[i])
    device.synchronize()
    assert all(torch.equal(cell, right) for cell, right in zip(cells, shadow, strict=True))


def test_the_device_copies_while_the_host_fills_the_next_buffer() -> None:
    device = SimulatedDevice(1)
    ring(device, slots=4, size=5).upload(torch.zeros(100, dtype=torch.uint8), random_bytes(100))
    assert 1 < device.most_in_flight <= 5  # four buffers, and what the copies wait for


# --- the store -------------------------------------------------------------------------------------------


def store(limit: int = 1 << 30) -> tuple[DeviceBufferStore, SimulatedDevice]:
    device = SimulatedDevice(3)
    memory = DeviceMemory(limit, FakePool(), FakeAllocator())
    return DeviceBufferStore(CPU, memory, ring(device, size=50_000, small=SMALL_NBYTES)), device


@pytest.mark.parametrize("dtype", list(WIRE_DTYPES), ids=str)
@pytest.mark.parametrize("rows", [3, 70_000])
def test_every_dtype_stays_as_bytes_of_the_pool(dtype: torch.dtype, rows: int) -> None:
    buffers, device = store()
    nbytes = rows * 4 * dtype.itemsize
    spec = TensorSpec(WIRE_DTYPES[dtype], (4, rows), (1, 4))
    data = random_bytes(nbytes).remainder_(2)  # bytes that are booleans too
    tensor = buffers.adopt(spec, data.clone())
    device.synchronize()
    assert (tensor.dtype, tuple(tensor.shape), tensor.stride()) == (dtype, (4, rows), (1, 4))
    found_spec, found = buffers.to_host(tensor)
    assert found_spec == spec
    assert bytes(found) == bytes(data.numpy().data)


def test_a_patch_changes_its_bytes_only() -> None:
    buffers, device = store()
    n = 3 * DIRECT_NBYTES
    before = random_bytes(n)
    tensor = buffers.adopt(TensorSpec("uint8", (n,), (1,)), before.clone())
    new = random_bytes(2 * DIRECT_NBYTES)
    buffers.patch(tensor, 100, new)
    device.synchronize()
    before[100 : 100 + new.numel()] = new
    assert torch.equal(tensor, before)
    with pytest.raises(ProtocolError, match="exceeds"):
        buffers.patch(tensor, n - 1, new)


def test_room_for_a_cache_comes_from_the_pool() -> None:
    buffers, _ = store(limit=1000)
    assert buffers.empty(torch.Size((2, 5, 10)), torch.bfloat16).shape == (2, 5, 10)
    with pytest.raises(torch.OutOfMemoryError):
        buffers.empty(torch.Size((2, 5, 100)), torch.bfloat16)


# --- without a GPU ---------------------------------------------------------------------------------------


def test_a_cuda_device_that_is_not_there_is_named() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(OptionError, match=r"--device cuda:3: torch .* finds 0 CUDA devices on this machine"):
        choose_device("cuda:3")


def test_missing_cupy_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(OptionError, match=r"pip install 'dynamo_genie\[cuda\]'"):
        CupyPool(torch.device("cuda", 0), 1000)
