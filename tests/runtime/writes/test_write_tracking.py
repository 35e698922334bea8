"""No write to a watched tensor goes unseen by the kernel tracker; the sampled one sees what it says it sees."""

from __future__ import annotations

import ctypes
import fcntl
import gc
import mmap
import os
import pathlib
from collections.abc import Iterator

import pytest
import torch

from dynamo_genie.runtime.writes import mapped_file
from dynamo_genie.runtime.writes.memory_map import MemoryMap
from dynamo_genie.runtime.writes.page_edges import PageEdges
from dynamo_genie.runtime.writes.page_scan import PAGE_NBYTES
from dynamo_genie.runtime.writes.watch import Watch, WriteTracker, merge_ranges
from dynamo_genie.runtime.writes.write_tracking import KernelWriteTracker, SampledFingerprint, make_write_tracker


def make_kernel_tracker() -> KernelWriteTracker:
    try:
        return KernelWriteTracker()
    except OSError as error:
        pytest.skip(f"THE KERNEL CANNOT TRACK WRITES, exact tracking is not tested: {error}")


@pytest.fixture
def kernel() -> Iterator[KernelWriteTracker]:
    tracker = make_kernel_tracker()
    yield tracker
    tracker.close()


@pytest.fixture(params=["kernel", "sampled"])
def tracker(request: pytest.FixtureRequest) -> Iterator[WriteTracker]:
    made: WriteTracker = make_kernel_tracker() if request.param == "kernel" else SampledFingerprint()
    yield made
    made.close()


def written(tracker: WriteTracker, inbox: set[Watch]) -> set[Watch]:
    """Scan, and empty the inbox."""
    tracker.scan()
    found = set(inbox)
    for watch in found:
        assert watch.take()
    assert not inbox
    return found


def pages(count: int, flags: int, fd: int = -1) -> tuple[mmap.mmap, torch.Tensor]:
    memory = mmap.mmap(fd, count * PAGE_NBYTES, flags=flags)
    return memory, torch.frombuffer(memory, dtype=torch.uint8)


def test_a_write_is_reported_once_and_to_its_tensor_only(tracker: WriteTracker) -> None:
    inbox: set[Watch] = set()
    tensors = [torch.zeros(300_000) for _ in range(5)]
    watches = tracker.watch(tensors, inbox)
    assert written(tracker, inbox) == set()
    tensors[3].data.add_(1)
    assert written(tracker, inbox) == {watches[3]}
    assert written(tracker, inbox) == set()


def test_reports_wait_until_they_are_taken(tracker: WriteTracker) -> None:
    inbox: set[Watch] = set()
    tensor = torch.zeros(300_000)
    (watch,) = tracker.watch([tensor], inbox)
    tensor.data.add_(1)
    tracker.scan()
    tracker.scan()
    assert inbox == {watch}


def test_closing_twice_is_fine(tracker: WriteTracker) -> None:
    tracker.watch([torch.zeros(5000)], set())
    tracker.close()
    tracker.close()
    tracker.scan()


def test_what_is_no_longer_watched_is_not_reported(tracker: WriteTracker) -> None:
    inbox: set[Watch] = set()
    tensors = [torch.zeros(300_000), torch.zeros(300_000)]
    watches = tracker.watch(tensors, inbox)
    tracker.unwatch([watches[0]])
    tracker.unwatch([watches[0]])
    tensors[0].data.add_(1)
    tensors[1].data.add_(1)
    assert written(tracker, inbox) == {watches[1]}


def test_each_consumer_hears_of_a_write_to_a_tensor_they_share(tracker: WriteTracker) -> None:
    tensor = torch.zeros(300_000)
    first: set[Watch] = set()
    second: set[Watch] = set()
    tracker.watch([tensor], first)
    tracker.watch([tensor], second)
    tensor.data.add_(1)
    tracker.scan()
    assert len(first) == len(second) == 1


def test_a_dead_tensor_is_not_read(tracker: WriteTracker) -> None:
    inbox: set[Watch] = set()
    tensors = [torch.zeros(30_000_000), torch.zeros(10)]
    tracker.watch(tensors, inbox)
    del tensors[0]
    gc.collect()
    tracker.scan()
    tensors[0].add_(1)
    tracker.scan()
    assert tensors[0].data_ptr() in {watch.address for watch in inbox}


@pytest.mark.parametrize("index", [0, 1, 499_999, 999_999])
def test_one_element_is_enough_and_the_report_says_where(kernel: KernelWriteTracker, index: int) -> None:
    inbox: set[Watch] = set()
    tensor = torch.zeros(1_000_001)[1:]  # begins and ends amid a page
    (watch,) = kernel.watch([tensor], inbox)
    tensor.numpy()[index] = 1
    kernel.scan()
    assert inbox == {watch}
    ((low, high),) = watch.take()
    assert low <= 4 * index < high
    assert high - low <= 2 * PAGE_NBYTES


def test_more_scattered_writes_than_one_report_holds(kernel: KernelWriteTracker) -> None:
    inbox: set[Watch] = set()
    _memory, tensor = pages(4000, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    (watch,) = kernel.watch([tensor], inbox)
    offsets = range(0, 4000 * PAGE_NBYTES, 2 * PAGE_NBYTES)
    for offset in offsets:
        tensor[offset] = 1
    kernel.scan()
    assert [low for low, _ in watch.take()] == list(offsets)
    assert written(kernel, inbox) == set()


def test_of_small_tensors_on_one_page_only_the_written_ones_are_reported(kernel: KernelWriteTracker) -> None:
    inbox: set[Watch] = set()
    base = torch.zeros(1000, 10)
    tensors = list(base)[100:900]
    watches = kernel.watch(tensors, inbox)
    base[57] = 1
    assert written(kernel, inbox) == set()
    base[157] = 1
    assert written(kernel, inbox) == {watches[57]}
    base[300:320] = 1
    assert written(kernel, inbox) == set(watches[200:220])


def test_watching_more_does_not_forget_what_was_written_before(kernel: KernelWriteTracker) -> None:
    inbox: set[Watch] = set()
    tensors = [torch.zeros(300_000) for _ in range(3)]
    watches = kernel.watch(tensors[:1], inbox)
    tensors[0].data.add_(1)
    watches += kernel.watch(tensors[1:], inbox)
    kernel.unwatch([watches[2]])
    assert written(kernel, inbox) == {watches[0]}


def test_memory_unmapped_and_mapped_again_counts_as_written(kernel: KernelWriteTracker) -> None:
    inbox: set[Watch] = set()
    _memory, tensor = pages(64, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    (watch,) = kernel.watch([tensor], inbox)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    address = tensor.data_ptr() + 8 * PAGE_NBYTES
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10  # MAP_FIXED
    for _ in range(3):
        assert libc.mmap(address, 8 * PAGE_NBYTES, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0) == address
        assert written(kernel, inbox) == {watch}
        assert written(kernel, inbox) == set()
        tensor[9 * PAGE_NBYTES] = 1
        assert written(kernel, inbox) == {watch}


def test_pages_given_back_to_the_kernel_count_as_written(kernel: KernelWriteTracker) -> None:
    inbox: set[Watch] = set()
    memory, tensor = pages(8, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    tensor.fill_(3)
    (watch,) = kernel.watch([tensor], inbox)
    memory.madvise(mmap.MADV_DONTNEED)
    assert tensor[0] == 0
    assert written(kernel, inbox) == {watch}


@pytest.fixture
def model_file(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A file of 64 zero pages whose times are as good as old."""
    monkeypatch.setattr(mapped_file, "_SETTLED_AFTER_S", 0)
    path = tmp_path / "model.bin"
    path.write_bytes(bytes(64 * PAGE_NBYTES))
    with path.open("rb") as file:
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except OSError as error:
            pytest.skip(f"this file system gives no leases: {error}")
    return path


def map_privately(path: pathlib.Path) -> torch.Tensor:
    return torch.from_file(str(path), shared=False, size=64 * PAGE_NBYTES, dtype=torch.uint8)


def test_a_file_mapped_privately_is_exact_for_own_writes_and_follows_the_file(
    kernel: KernelWriteTracker, model_file: pathlib.Path
) -> None:
    inbox: set[Watch] = set()
    tensor = map_privately(model_file)
    (watch,) = kernel.watch([tensor], inbox)
    written(kernel, inbox)
    assert watch.exact
    assert written(kernel, inbox) == set()
    tensor.numpy()[12_345] = 1
    assert written(kernel, inbox) == {watch}
    with model_file.open("r+b") as file:
        file.write(b"x")
    assert tensor[0] == ord("x")
    assert written(kernel, inbox) == {watch}
    moved = model_file.rename(model_file.with_name("elsewhere.bin"))
    written(kernel, inbox)
    with moved.open("r+b") as file:
        file.write(b"y")
    assert written(kernel, inbox) == {watch}
    moved.unlink()
    written(kernel, inbox)
    assert written(kernel, inbox) == set()
    assert watch.exact


def test_a_file_that_somebody_keeps_mapped_for_writing_is_not_trusted(
    kernel: KernelWriteTracker, model_file: pathlib.Path
) -> None:
    inbox: set[Watch] = set()
    tensor = map_privately(model_file)
    (watch,) = kernel.watch([tensor], inbox)
    written(kernel, inbox)
    assert (watch.exact, watch.foreign) == (True, False)
    with model_file.open("r+b") as file, mmap.mmap(file.fileno(), 0) as writer:
        file.close()  # the mapping alone is enough to write
        assert written(kernel, inbox) == {watch}
        assert (watch.exact, watch.foreign) == (False, True)
        writer[5] = 1
        written(kernel, inbox)
        writer[5] = 2  # leaves no trace: the page is dirty already
        assert tensor[5] == 2
        assert not watch.exact
    assert written(kernel, inbox) == {watch}
    assert (watch.exact, watch.foreign) == (True, False)
    assert written(kernel, inbox) == set()


def test_a_file_just_written_or_where_times_are_not_kept_is_not_trusted(
    kernel: KernelWriteTracker, model_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = pathlib.Path("/dev/shm", f"genie-test-{os.getpid()}")
    in_memory.write_bytes(bytes(64 * PAGE_NBYTES))
    try:
        kept = [map_privately(model_file), map_privately(in_memory)]
        watches = kernel.watch(kept, set())
        kernel.scan()
        assert [watch.exact for watch in watches] == [True, False]
        monkeypatch.setattr(mapped_file, "_SETTLED_AFTER_S", 3600)
        kernel.scan()
        assert [watch.exact for watch in watches] == [False, False]
    finally:
        in_memory.unlink()


def test_shared_memory_is_seen_through_own_writes_and_sampled_for_those_of_others(kernel: KernelWriteTracker) -> None:
    inbox: set[Watch] = set()
    tensor = torch.zeros(100_000).share_memory_()
    (watch,) = kernel.watch([tensor], inbox)
    assert (watch.exact, watch.foreign) == (False, True)
    tensor.numpy()[54_321] = 1
    assert written(kernel, inbox) == {watch}
    child = os.fork()
    if child == 0:
        ctypes.memset(tensor.data_ptr(), 7, tensor.nbytes)
        os._exit(0)
    os.waitpid(child, 0)
    assert written(kernel, inbox) == {watch}
    assert written(kernel, inbox) == set()


def test_after_a_fork_the_parent_goes_on_and_the_child_takes_all_as_written(kernel: KernelWriteTracker) -> None:
    inbox: set[Watch] = set()
    tensors = [torch.zeros(300_000), torch.zeros(300_000)]
    watches = kernel.watch(tensors, inbox)
    child = os.fork()
    if child == 0:
        kernel.scan()
        os._exit(0 if inbox == set(watches) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert written(kernel, inbox) == set()
    tensors[1].numpy()[150_000] = 1
    assert written(kernel, inbox) == {watches[1]}


def test_memory_that_somebody_else_tracks_is_sampled(kernel: KernelWriteTracker) -> None:
    other = make_kernel_tracker()
    mine: set[Watch] = set()
    theirs: set[Watch] = set()
    _memory, tensor = pages(32, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    other.watch([tensor], theirs)
    (watch,) = kernel.watch([tensor], mine)
    assert not watch.exact
    tensor.fill_(1)
    assert watch in written(kernel, mine)
    assert written(kernel, mine) == set()
    other.close()


def test_the_kernel_writes_into_watched_memory_too(kernel: KernelWriteTracker) -> None:
    inbox: set[Watch] = set()
    tensor = torch.ones(300_000)
    (watch,) = kernel.watch([tensor], inbox)
    with open("/dev/zero", "rb", buffering=0) as file:
        assert file.readinto(tensor.numpy()[1000:1010]) == 40
    assert tensor[1005] == 0
    assert written(kernel, inbox) == {watch}


def test_sampling_sees_dense_changes_and_any_change_of_a_small_tensor() -> None:
    tracker = SampledFingerprint()
    inbox: set[Watch] = set()
    small, large = torch.zeros(1024), torch.zeros(1_000_003)
    watches = tracker.watch([small, large], inbox)
    assert not any(watch.exact or watch.foreign for watch in watches)
    (shared,) = tracker.watch([torch.zeros(1024).share_memory_()], inbox)
    assert shared.foreign
    tracker.unwatch([shared])
    small.data[777] = 1
    assert written(tracker, inbox) == {watches[0]}
    large.data[1_000_002] = 1
    assert written(tracker, inbox) == {watches[1]}
    large.data.add_(1)
    assert written(tracker, inbox) == {watches[1]}


def test_a_tensor_whose_data_was_swapped_is_reported_and_its_old_memory_left_alone() -> None:
    tracker = SampledFingerprint()
    inbox: set[Watch] = set()
    tensor = torch.zeros(30_000_000)
    (watch,) = tracker.watch([tensor], inbox)
    tensor.data = torch.zeros(1)
    assert written(tracker, inbox) == {watch}


def test_the_best_tracker_is_chosen() -> None:
    tracker = make_write_tracker()
    assert isinstance(tracker, KernelWriteTracker | SampledFingerprint)
    tracker.close()


def test_ranges_are_merged_across_small_gaps() -> None:
    assert merge_ranges([(5, 9), (0, 3), (2, 4)]) == [(0, 4), (5, 9)]
    assert merge_ranges([(5, 9), (0, 3)], gap=2) == [(0, 9)]


def test_a_range_is_covered_only_without_holes() -> None:
    memory = MemoryMap(
        "1000-3000 rw-p 00000000 00:00 0 \n"
        "3000-4000 rw-s 00000000 00:01 77                         /dev/shm/a b (deleted)\n"
        "6000-7000 rw-p 00000000 00:00 0                          [heap]\n"
    )
    assert [m.shared for m in memory.covering(0x2000, 0x3800)] == [False, True]
    assert memory.covering(0x3000, 0x3001)[0].path == "/dev/shm/a b (deleted)"
    assert memory.covering(0x6000, 0x7000)[0].path == ""
    for low, high in [(0, 0x1000), (0x500, 0x1500), (0x3800, 0x4001), (0x4000, 0x5000), (0x7000, 0x7001)]:
        assert memory.covering(low, high) == []


def test_a_change_at_one_end_is_not_used_up_by_a_report_about_the_other() -> None:
    """The page of the first bytes is written by others all the time, the last element by the model."""
    memory = torch.zeros(4 * PAGE_NBYTES, dtype=torch.uint8)
    start = -memory.data_ptr() % PAGE_NBYTES + 64
    tensor = memory[start : start + 2 * PAGE_NBYTES]
    edges = PageEdges(Watch(tensor, set()))
    edges.note()
    tensor[-1] = 1
    assert not edges.written(0, 100)
    assert edges.written(tensor.nbytes - 10, tensor.nbytes)
    assert not edges.written(tensor.nbytes - 10, tensor.nbytes)
