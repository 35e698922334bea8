"""A cache of weights gives back what it was given or nothing, whatever its files hold and whenever its writers die."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dynamo_genie.remote_daemon.weight_files.background import KeptWeights
from dynamo_genie.remote_daemon.weight_files.cache import PART, SUFFIX, WeightCache
from dynamo_genie.remote_daemon.weight_files.entry import HEADER_NBYTES, MARK
from dynamo_genie.runtime.wire.content import chunk_digests, content_digest
from dynamo_genie.runtime.wire.tensor import TensorSpec
from dynamo_genie.tensors import flat_bytes, from_flat_bytes, spec_of

LARGE = 1 << 40


def allocate(nbytes: int) -> Tensor:
    return torch.empty(nbytes, dtype=torch.uint8)


def described(tensor: Tensor) -> tuple[bytes, TensorSpec, Tensor]:
    """Return a dense tensor's digest, spec and bytes."""
    spec, memory = spec_of(tensor), flat_bytes(tensor)
    return content_digest(spec, chunk_digests(memoryview(memory.numpy()))), spec, memory


def kept(cache: WeightCache, tensor: Tensor) -> bytes:
    digest, spec, memory = described(tensor)
    cache.write(digest, spec, memory)
    return digest


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(300, 40),
        torch.randn(300, 40).t(),
        torch.arange(7, dtype=torch.int64),
        torch.randn(5, 2, 3).to(torch.bfloat16),
        torch.tensor(3.5),
        torch.empty(0, 4),
        torch.randn(700_000),
    ],
    ids=["matrix", "transposed", "int64", "bfloat16", "number", "empty", "several chunks"],
)
def test_a_weight_is_read_as_it_was_written(tmp_path: Path, tensor: Tensor) -> None:
    digest = kept(WeightCache(tmp_path, LARGE), tensor)
    again = WeightCache(tmp_path, LARGE)  # another worker's
    spec, memory = again.describe(digest), again.read(digest, allocate)
    assert spec is not None
    assert memory is not None
    found = from_flat_bytes(memory, spec)
    assert torch.equal(found, tensor)
    assert found.stride() == tensor.stride()
    assert names(tmp_path) == [f"{digest.hex()}{SUFFIX}"]


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    cache = WeightCache(tmp_path, LARGE)
    assert cache.describe(bytes(16)) is None
    assert cache.read(bytes(16), allocate) is None


@pytest.mark.parametrize("place", [0, len(MARK), len(MARK) + 6, HEADER_NBYTES, HEADER_NBYTES + 3999])
def test_a_damaged_file_is_found_out_and_removed(tmp_path: Path, place: int) -> None:
    cache = WeightCache(tmp_path, LARGE)
    digest = kept(cache, torch.randn(1000))
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    assert cache.read(digest, allocate) is None
    assert names(tmp_path) == []


@pytest.mark.parametrize("size", [0, 100, HEADER_NBYTES, HEADER_NBYTES + 10])
def test_a_file_that_was_cut_is_found_out(tmp_path: Path, size: int) -> None:
    cache = WeightCache(tmp_path, LARGE)
    digest = kept(cache, torch.randn(1000))
    (path,) = tmp_path.iterdir()
    os.truncate(path, size)
    assert cache.describe(digest) is None
    assert names(tmp_path) == []


@given(data=st.binary(max_size=300), length=st.integers(0, 2**32 - 1))
def test_no_header_makes_a_reader_fail_or_allocate(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, length: int
) -> None:
    directory = tmp_path_factory.mktemp("hostile")
    asked: list[int] = []

    def noted(nbytes: int) -> Tensor:
        asked.append(nbytes)
        return allocate(nbytes)

    digest = bytes(range(16))
    whole = MARK + length.to_bytes(4, "little") + data
    (directory / f"{digest.hex()}{SUFFIX}").write_bytes(whole.ljust(HEADER_NBYTES, b"\0") + bytes(64))
    assert WeightCache(directory, LARGE).read(digest, noted) is None
    assert all(nbytes <= 64 for nbytes in asked)


def test_what_was_not_used_for_longest_makes_room(tmp_path: Path) -> None:
    tensors = [torch.full((1000,), float(number)) for number in range(4)]
    one = HEADER_NBYTES + tensors[0].nbytes
    cache = WeightCache(tmp_path, 3 * one)
    digests = [kept(cache, tensor) for tensor in tensors[:3]]
    for age, digest in zip((300, 200, 100), digests, strict=True):
        then = time.time() - age
        os.utime(tmp_path / f"{digest.hex()}{SUFFIX}", (then, then))
    assert cache.read(digests[0], allocate) is not None  # it was used now
    digests.append(kept(cache, tensors[3]))
    assert [cache.describe(digest) is not None for digest in digests] == [True, False, True, True]
    assert cache.nbytes == 3 * one
    kept(cache, torch.zeros(10_000))  # more than there may be
    assert cache.nbytes == 3 * one


def test_without_a_limit_it_takes_a_part_of_what_is_free(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    assert 0 < WeightCache(tmp_path).limit <= free


def test_a_directory_that_cannot_be_written_loses_nothing_but_the_cache(tmp_path: Path) -> None:
    cache = WeightCache(tmp_path, LARGE)
    tmp_path.rmdir()
    digest = kept(cache, torch.ones(3))
    assert cache.read(digest, allocate) is None


def _write_for_ever(directory: Path, seed: int) -> None:
    cache = WeightCache(directory, 40 * (HEADER_NBYTES + 40_000))  # so that room is made, too
    numbers = random.Random(seed)
    while True:
        kept(cache, torch.full((10_000,), float(numbers.randrange(1_000_000))))


def _kills(directory: Path, kills: int) -> None:
    """Kill writers, two at a time, at any moment; then read everything."""
    moments = random.Random(0)
    for kill in range(kills):
        writers = []
        for writer in range(2):
            pid = os.fork()
            if pid == 0:
                try:
                    _write_for_ever(directory, 2 * kill + writer)
                finally:
                    os._exit(1)
            writers.append(pid)
        time.sleep(moments.uniform(0.001, 0.03))
        for pid in writers:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    found = [path for path in directory.iterdir() if path.name.endswith(SUFFIX)]
    assert found
    cache = WeightCache(directory, LARGE)
    for path in found:
        memory = cache.read(bytes.fromhex(path.name.removesuffix(SUFFIX)), allocate)
        assert memory is not None, path
    assert not [path for path in directory.iterdir() if path.name.endswith(PART)]


def test_writers_that_are_killed_leave_no_wrong_content(tmp_path: Path) -> None:
    _kills(tmp_path, 20)


@pytest.mark.slow
def test_writers_that_are_killed_200_times_leave_no_wrong_content(tmp_path: Path) -> None:
    _kills(tmp_path, 200)


def test_what_is_being_written_is_left_alone(tmp_path: Path) -> None:
    import fcntl

    part = tmp_path / f"1-1{PART}"
    with part.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        WeightCache(tmp_path, LARGE)
        assert part.exists()
    WeightCache(tmp_path, LARGE)
    assert not part.exists()


def test_it_is_written_in_the_background(tmp_path: Path) -> None:
    weights = KeptWeights(WeightCache(tmp_path, LARGE))
    tensors = [torch.randn(1000) for _ in range(20)]
    found = [described(tensor) for tensor in tensors]
    for digest, spec, memory in found:
        weights.keep(digest, spec, memory)
    assert weights.settle(30)
    assert all(weights.describe(digest) == spec for digest, spec, _ in found)


def test_what_changes_while_it_is_written_is_found_out(tmp_path: Path) -> None:
    cache = WeightCache(tmp_path, LARGE)
    digest, spec, memory = described(torch.ones(1000))
    memory[5] ^= 1
    cache.write(digest, spec, memory)
    assert cache.read(digest, allocate) is None
