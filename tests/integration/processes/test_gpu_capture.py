"""What only a card can prove of docs/cuda.md: captures that fail, threads beside them, memory in a stream's order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from dynamo_genie.remote_daemon.engines.cuda_recorder import CudaRecorder
from dynamo_genie.remote_daemon.memory.cupy_memory import CudaStreams, CupyPool, open_cuda_memory

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU"),
]

CARD = torch.device("cuda", 0)
MIB = 1 << 20
LIMIT_S = 60


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield
    torch.cuda.synchronize()
    torch.cuda.set_per_process_memory_fraction(1.0, CARD)  # memory within a limit has lowered it
    torch.cuda.empty_cache()


def good(recorder: CudaRecorder) -> None:
    """Record products, so that a cuBLAS workspace lies in the pool, and see that a replay computes them."""
    left = torch.randn(64, 64, device=CARD)
    expected = left @ left + 1  # the first time eager: libraries set themselves up
    replay, [result] = recorder.record(lambda: (left @ left + 1,))
    replay()
    assert torch.equal(result.clone(), expected)


@pytest.mark.parametrize(
    "forbidden",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: x.cpu(),
        lambda x: torch.cuda.synchronize(),
    ],
    ids=["item", "mask", "fetch", "wait"],
)
def test_after_what_may_not_be_recorded_everything_else_is(forbidden: Callable[[torch.Tensor], Any]) -> None:
    recorder = CudaRecorder(CARD)
    x = torch.randn(1000, device=CARD)
    good(recorder)
    stream = torch.cuda.current_stream()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="captur"):
            recorder.record(lambda: (x * 2, forbidden(x)))
        assert torch.cuda.current_stream() == stream
        torch.cuda.empty_cache()
        good(recorder)


def finds_too_little(recorder: CudaRecorder) -> bool:
    """Record more than there is; nothing holds the error, and the frames in it, when this returns."""
    try:
        recorder.record(lambda: tuple(torch.zeros(48 * MIB, dtype=torch.uint8, device=CARD) for _ in range(8)))
    except torch.OutOfMemoryError:
        return True
    return False


def test_a_recording_that_finds_no_memory_gives_back_what_it_had() -> None:
    recorder = CudaRecorder(CARD)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved(CARD)
    total = torch.cuda.get_device_properties(CARD).total_memory
    torch.cuda.set_per_process_memory_fraction((before + 256 * MIB) / total, CARD)
    assert finds_too_little(recorder)
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved(CARD) < before + 48 * MIB
    assert torch.zeros(192 * MIB, dtype=torch.uint8, device=CARD).numel()
    good(recorder)


def test_there_can_be_a_recording_after_the_last_one_has_gone() -> None:
    recorder = CudaRecorder(CARD)
    for _ in range(3):
        good(recorder)
        torch.cuda.empty_cache()


def test_a_recording_may_go_while_its_replay_runs() -> None:
    recorder = CudaRecorder(CARD)
    x = torch.randn(2048, 2048, device=CARD)
    expected = (x @ x) @ x
    out = torch.empty_like(x)
    for _ in range(10):
        replay, _ = recorder.record(lambda: (out.copy_((x @ x) @ x),))
        replay()
        del replay
    torch.cuda.synchronize()
    torch.testing.assert_close(out, expected)


def test_a_kernel_may_be_loaded_by_a_recording() -> None:
    x = torch.rand(33, 7, dtype=torch.float64, device=CARD)
    replay, [result] = CudaRecorder(CARD).record(lambda: (torch.logcumsumexp(x, 0),))  # nobody else here uses it
    replay()
    torch.testing.assert_close(result.cpu(), torch.logcumsumexp(x.cpu(), 0))


def test_resident_memory_is_refused_inside_a_recording_and_spoils_nothing() -> None:
    recorder, pool = CudaRecorder(CARD), CupyPool(CARD, 64 * MIB)
    x = torch.ones(10, device=CARD)

    def refused() -> tuple[Any, ...]:
        with pytest.raises(RuntimeError, match="while a CUDA graph is recorded"):
            pool.allocate(MIB)
        return (x + 1,)

    replay, [result] = recorder.record(refused)
    replay()
    assert result.tolist() == [2.0] * 10
    assert pool.allocate(MIB).numel() == MIB


def test_another_thread_may_allocate_copy_and_wait_while_a_stream_captures() -> None:
    recorder = CudaRecorder(CARD)
    captures, copied = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def beside() -> None:
        try:
            assert captures.wait(LIMIT_S)
            with torch.inference_mode():
                pool, streams = CupyPool(CARD, 64 * MIB), CudaStreams(CARD)
                target = pool.allocate(MIB)
                pinned = torch.full((MIB,), 7, dtype=torch.uint8).pin_memory()
                streams.copy(target, pinned).synchronize()
                assert (target.cpu() == 7).all()
        except BaseException as error:  # noqa: BLE001 - for the thread that asserts
            errors.append(error)
        finally:
            copied.set()

    x = torch.ones(1000, device=CARD)

    def run() -> tuple[torch.Tensor]:
        doubled = x * 2
        captures.set()
        assert copied.wait(LIMIT_S)
        return (doubled + 1,)

    thread = threading.Thread(target=beside)
    thread.start()
    replay, [result] = recorder.record(run)
    thread.join(LIMIT_S)
    assert errors == []
    replay()
    assert (result == 3).all()


def test_a_small_upload_waits_for_nothing_and_comes_after_what_was_launched() -> None:
    memory, ring = open_cuda_memory(CARD, 8 << 30)
    x = torch.randn(8192, 8192, device=CARD)
    flat, seen = memory.allocate(4096), torch.zeros(4096, dtype=torch.uint8, device=CARD)
    flat.fill_(1)
    ring.upload(flat, torch.ones(4096, dtype=torch.uint8))  # a pinned buffer is there now
    torch.cuda.synchronize()
    for _ in range(20):
        x = x @ x
    seen.copy_(flat)
    launched = torch.cuda.Event()
    launched.record()
    source = torch.full((4096,), 2, dtype=torch.uint8)
    ring.upload(flat, source)
    assert not launched.query(), "the upload has waited for the products"
    source.zero_()
    assert (seen == 1).all() and (flat == 2).all()


def test_memory_that_another_thread_frees_is_used_again_after_what_read_it() -> None:
    memory, ring = open_cuda_memory(CARD, 8 << 30)
    x = torch.randn(4096, 4096, device=CARD)
    size = 16 * MIB
    for value in range(1, 6):
        kept = [memory.allocate(size).fill_(value)]
        address = kept[0].data_ptr()
        seen = torch.empty(size, dtype=torch.uint8, device=CARD)
        for _ in range(5):
            x = x @ x
        seen.copy_(kept[0])
        thread = threading.Thread(target=kept.clear)
        thread.start()
        thread.join(LIMIT_S)
        again = memory.allocate(size)
        assert again.data_ptr() == address
        ring.upload(again, torch.zeros(size, dtype=torch.uint8))
        assert (seen == value).all()
        del again


def test_both_allocators_keep_to_one_limit() -> None:
    torch.cuda.empty_cache()
    memory, _ = open_cuda_memory(CARD, torch.cuda.memory_reserved(CARD) + 512 * MIB)
    kept = [memory.allocate(64 * MIB) for _ in range(4)]
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(384 * MIB, dtype=torch.uint8, device=CARD)
    with pytest.raises(torch.OutOfMemoryError, match="do not fit"):
        memory.allocate(384 * MIB)
    kept.clear()
    memory.make_room_for_temporaries()
    assert torch.empty(384 * MIB, dtype=torch.uint8, device=CARD).numel()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one card only")
def test_the_pool_of_another_card_speaks_of_that_card() -> None:
    pool = CupyPool(torch.device("cuda", 1), 64 * MIB)
    memory = pool.allocate(MIB)
    assert (memory.device.index, pool.used, torch.cuda.current_device()) == (1, MIB, 0)
    with pytest.raises(MemoryError):
        pool.allocate(64 * MIB)
