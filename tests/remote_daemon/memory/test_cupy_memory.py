"""The resident pool on a stand-in for CuPy that holds to what CuPy 14 does, and a stand-in for torch's streams."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from dynamo_genie.remote_daemon.memory.cupy_memory import CupyPool
from tests.remote_daemon.simulated_device import PiecedPool

CARD = torch.device("cuda", 1)


class StandInForCupy:
    """`cupy`, with a current device and pools that are one for each device; a limit of 0 is none."""

    uint8 = "uint8"

    def __init__(self) -> None:
        self.current = 0
        self.pools: defaultdict[int, PiecedPool] = defaultdict(PiecedPool)
        self.cuda = SimpleNamespace(MemoryPool=lambda: self, Device=self.device)

    @contextmanager
    def device(self, index: int) -> Iterator[None]:
        before, self.current = self.current, index
        yield
        self.current = before

    def ndarray(self, shape: tuple[int], dtype: str, memptr: torch.Tensor) -> torch.Tensor:
        assert (shape, dtype) == ((memptr.numel(),), self.uint8)
        return memptr

    def set_limit(self, *, size: int) -> None:
        self.pools[self.current].allow(size or sys.maxsize)

    def malloc(self, nbytes: int) -> torch.Tensor:
        return self.pools[self.current].allocate(nbytes)

    def total_bytes(self) -> int:
        return self.pools[self.current].held

    def used_bytes(self) -> int:
        return self.pools[self.current].used

    def free_all_blocks(self) -> None:
        self.pools[self.current].trim()


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> StandInForCupy:
    stand_in = StandInForCupy()
    monkeypatch.setitem(sys.modules, "cupy", stand_in)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "compute")
    return stand_in


def test_the_pool_speaks_of_its_own_device_whichever_is_current(cupy: StandInForCupy) -> None:
    pool = CupyPool(CARD, 10_240)
    kept = [pool.allocate(512), pool.allocate(1_024)]
    del kept[0]
    assert (pool.held, pool.used, cupy.pools[0].held) == (1_536, 1_024, 0)
    pool.trim()
    assert (pool.held, cupy.current) == (1_024, 0)


def test_the_limit_is_the_devices_and_nothing_is_not_everything(cupy: StandInForCupy) -> None:
    pool = CupyPool(CARD, 1_024)
    with pytest.raises(MemoryError):
        pool.allocate(2_048)
    for least in (0, -5):
        pool.allow(least)
        with pytest.raises(MemoryError):
            pool.allocate(1)


def test_memory_is_not_asked_for_inside_a_recording(cupy: StandInForCupy, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = CupyPool(CARD, 10_240)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "capture")
    with pytest.raises(RuntimeError, match="while a CUDA graph is recorded"):
        pool.allocate(512)
    assert pool.held == 0
