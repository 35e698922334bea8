"""The choice and the limits of a CUDA device, with a stand-in for what torch.cuda knows of the machine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dynamo_genie.errors import OptionError
from dynamo_genie.remote_daemon.memory.offloader import Offloader
from dynamo_genie.remote_daemon.worker import device as worker_device
from dynamo_genie.remote_daemon.worker.device import USABLE_SHARE, choose_device, device_info, open_buffers
from dynamo_genie.remote_daemon.worker.device_speed import DeviceSpeed

TOTAL = 1000


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A machine with two cards; returns what is done with them, in order."""
    done: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=TOTAL))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card {device.index}")
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: done.append(("current", device)))
    monkeypatch.setattr(worker_device, "measure_speed", lambda device: DeviceSpeed(1.0, 2.0))

    def open_memory(device: torch.device, limit: int, free: Any) -> tuple[None, None]:
        done.append(("memory", device, limit))
        return None, None

    monkeypatch.setattr(worker_device, "open_cuda_memory", open_memory)
    return done


@pytest.mark.parametrize(("name", "index"), [("auto", 0), ("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)])
def test_a_card_has_its_number_always(cards: list[Any], name: str, index: int) -> None:
    assert choose_device(name) == torch.device("cuda", index)


def test_a_card_that_is_not_there_is_refused(cards: list[Any]) -> None:
    with pytest.raises(OptionError, match="finds 2 CUDA devices"):
        choose_device("cuda:2")


@pytest.mark.parametrize(("asked", "limit"), [(0, int(TOTAL * USABLE_SHARE)), (123, 123)])
def test_a_card_keeps_some_memory_for_the_driver(cards: list[Any], asked: int, limit: int) -> None:
    info = device_info(torch.device("cuda", 1), asked)
    assert (info.kind, info.name, info.memory_limit) == ("cuda", "card 1", limit)


def test_the_card_is_the_threads_own_before_any_memory_is_taken(cards: list[Any]) -> None:
    card = torch.device("cuda", 1)
    buffers = open_buffers(card, Offloader(500))
    assert buffers.device == card
    assert cards == [("current", card), ("memory", card, 500)]
