"""Weights that other processes write are compared whole, and what goes out is what its digest says."""

from __future__ import annotations

import ctypes
import mmap
import os
import pathlib
from collections.abc import Callable, Iterator

import pytest
import torch

from dynamo_genie.runtime.weights.weights import ResidentWeights, WeightBinding
from dynamo_genie.runtime.wire.limits import CHUNK_NBYTES
from dynamo_genie.runtime.writes.write_tracking import KernelWriteTracker, SampledFingerprint, WriteTracker
from tests.runtime.weights.host_channel import HostChannel

ROWS, WIDTH = 1031, 769  # no whole number of chunks, words or pages


def by_share_memory(tmp_path: pathlib.Path) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(ROWS, WIDTH).share_memory_(), torch.zeros(7).share_memory_()


def by_a_file(tmp_path: pathlib.Path) -> tuple[torch.Tensor, torch.Tensor]:
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes((ROWS * WIDTH + 7) * 4))
    whole = torch.from_file(str(path), shared=True, size=ROWS * WIDTH + 7)
    return whole[: ROWS * WIDTH].view(ROWS, WIDTH), whole[ROWS * WIDTH :]


def by_anonymous_memory(tmp_path: pathlib.Path) -> tuple[torch.Tensor, torch.Tensor]:
    whole = torch.frombuffer(mmap.mmap(-1, (ROWS * WIDTH + 7) * 4), dtype=torch.float32)
    return whole[: ROWS * WIDTH].view(ROWS, WIDTH), whole[ROWS * WIDTH :]


def in_a_child(write: Callable[[], object]) -> None:
    """Run a write in a forked child; it calls nothing of torch, whose threads the child lacks."""
    child = os.fork()
    if child == 0:
        write()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def assert_same(channel: HostChannel, binding: WeightBinding, tensors: list[torch.Tensor]) -> None:
    for tensor, handle in zip(tensors, binding.handles, strict=True):
        assert torch.equal(channel.read(handle), tensor)


@pytest.mark.parametrize("share", [by_share_memory, by_a_file, by_anonymous_memory], ids=lambda share: share.__name__)
def test_whatever_a_child_changes_in_shared_weights_is_seen(
    share: Callable[[pathlib.Path], tuple[torch.Tensor, torch.Tensor]],
    weights: ResidentWeights,
    channel: HostChannel,
    tmp_path: pathlib.Path,
) -> None:
    tensors = [*share(tmp_path), torch.zeros(3)]  # the last one is private: what a child writes there is its own
    binding = weights.bind(tensors)
    weight, bias, private = (tensor.numpy() for tensor in tensors)
    last = tensors[0].data_ptr() + tensors[0].nbytes - 1
    channel.take_sent()
    for write, nbytes in (
        (lambda: weight.__setitem__((345, 67), 1.5), CHUNK_NBYTES),  # one element
        (lambda: weight.__setitem__((346, 67), 1.5), CHUNK_NBYTES),
        (lambda: weight.__setitem__(800, 2.5), CHUNK_NBYTES),  # one row
        (lambda: ctypes.memset(last, 0x40, 1), tensors[0].nbytes % CHUNK_NBYTES),  # the last byte
        (lambda: bias.__setitem__(3, 3.5), 7 * 4),
        (lambda: private.__setitem__(0, 1), 0),
    ):
        in_a_child(write)
        assert binding.sync(tensors) is (nbytes > 0)
        assert channel.take_sent() == nbytes
        assert_same(channel, binding, tensors)
        assert not binding.sync(tensors)
        assert channel.take_sent() == 0


def test_a_second_binding_sees_what_the_first_one_has_sent_already(
    weights: ResidentWeights, channel: HostChannel, tmp_path: pathlib.Path
) -> None:
    tensors = list(by_share_memory(tmp_path))
    first, second = weights.bind(tensors), weights.bind(tensors)
    weight = tensors[0].numpy()
    in_a_child(lambda: weight.__setitem__((345, 67), 1.5))
    assert first.sync(tensors)
    assert not second.sync(tensors)
    assert_same(channel, second, tensors)


def test_a_sampling_binding_may_miss_an_element_and_pays_nothing_for_it(
    weights: ResidentWeights, channel: HostChannel, tmp_path: pathlib.Path
) -> None:
    tensors = list(by_share_memory(tmp_path))
    binding = weights.bind(tensors, sampled=True)
    weight = tensors[0].numpy()
    in_a_child(lambda: weight.__setitem__((345, 67), 1.5))
    assert not binding.sync(tensors)
    in_a_child(lambda: weight.__iadd__(1))
    assert binding.sync(tensors)
    assert_same(channel, binding, tensors)


class WriterAtWork(HostChannel):
    """A channel during whose uploads another process writes: what was read stays, what is read next is new."""

    def __init__(self, writes: Iterator[Callable[[], object]]) -> None:
        super().__init__()
        self.writes = writes

    def upload(self, view: memoryview, kind: str = "weight") -> int:
        next(self.writes, int)()
        return super().upload(view, kind)


def test_a_write_during_an_upload_is_sent_with_the_next_use(tracker: WriteTracker, tmp_path: pathlib.Path) -> None:
    tensors = [tensor.fill_(1) for tensor in by_share_memory(tmp_path)]
    weight = tensors[0].numpy()
    during_binding = [lambda: weight.__setitem__((345, 67), 1.5)]
    during_sync = [lambda: weight.__setitem__((345, 68), 2.5), lambda: weight.__setitem__((345, 68), 1)]
    channel = WriterAtWork(iter(during_binding + during_sync))
    weights = ResidentWeights(channel, tracker)
    binding = weights.bind(tensors)  # the daemon checks each digest: binding fails if the bytes are not those hashed
    assert not torch.equal(channel.read(binding.handles[0]), tensors[0])
    assert binding.sync(tensors)  # during which one more element changes, and ...
    weight[0, 0] = 7
    assert binding.sync(tensors)  # ... changes back
    assert not binding.sync(tensors)
    assert_same(channel, binding, tensors)
    weights.close()


def test_equal_shared_and_private_contents_are_each_there(
    weights: ResidentWeights, channel: HostChannel, tmp_path: pathlib.Path
) -> None:
    shared, bias = by_share_memory(tmp_path)
    tensors = [shared, torch.zeros(ROWS, WIDTH), bias, torch.zeros(7)]
    assert_same(channel, weights.bind(tensors), tensors)


def test_statistics_that_a_program_changes_in_shared_memory_stay_right(
    weights: ResidentWeights, channel: HostChannel, tmp_path: pathlib.Path
) -> None:
    tensors = list(by_share_memory(tmp_path))
    binding = weights.bind(tensors, mutated=frozenset({1}))
    channel.resident[binding.handles[1]][1][:] = torch.ones(7).numpy().tobytes()  # the program ran
    tensors[1].fill_(1)  # and its result was written back,
    bias = tensors[1].numpy()
    in_a_child(lambda: bias.__setitem__(2, 9))  # but somebody was quicker than the note of it
    binding.mark_in_sync()
    binding.sync(tensors)
    assert_same(channel, binding, tensors)


def test_a_closed_store_watches_nothing(tracker: WriteTracker, channel: HostChannel) -> None:
    tensors = [torch.zeros(5000), torch.zeros(10)]
    weights = ResidentWeights(channel, tracker)
    binding = weights.bind(tensors)
    del tensors[1]
    weights.sweep()
    weights.close()
    assert isinstance(tracker, KernelWriteTracker | SampledFingerprint)
    assert not (tracker._prints if isinstance(tracker, SampledFingerprint) else tracker._watches)
    assert len(binding.handles) == 2
