"""Several devices in one daemon: each is a place of its own, with a worker of its own, reached through one endpoint."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import dynamo_genie
from dynamo_genie.backend import genie
from dynamo_genie.connections.connections import CONNECTIONS
from dynamo_genie.errors import OptionError
from dynamo_genie.remote_daemon.memory.host_memory import machine_nbytes
from tests.integration.models import make_model, token_prompt
from tests.integration.real_daemon import RealDaemon, eventually

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.environ.get("GENIE_TEST_BACKEND", "genie") != "genie", reason="about daemons"),
]


@pytest.fixture(scope="module")
def daemon() -> Iterator[RealDaemon]:
    dynamo_genie.shutdown()  # sessions that other tests of this process left open
    with RealDaemon(device="cpu,cpu") as daemon:
        yield daemon
        dynamo_genie.shutdown()


def on_device(daemon: RealDaemon, number: int, function: Any) -> Any:
    return torch.compile(function, backend=genie, options={"daemons": f"{daemon.endpoint}#{number}"})


def test_status_shows_each_device_as_a_worker(daemon: RealDaemon) -> None:
    workers = daemon.statuses()
    assert len({worker.pid for worker in workers}) == 2
    assert [worker.device for worker in workers] == ["cpu cpu", "cpu cpu"]
    assert sum(worker.memory_limit for worker in workers) <= machine_nbytes(), "they share one memory"


def test_a_device_is_named_behind_the_endpoint(daemon: RealDaemon) -> None:
    for number in (0, 1):
        assert on_device(daemon, number, lambda x: x * 2)(torch.ones(3)).tolist() == [2.0] * 3
        assert [len(worker.sessions) for worker in daemon.statuses()] == [1, number]


def test_a_model_is_spread_over_all_devices_of_a_daemon(daemon: RealDaemon) -> None:
    model = make_model("gpt2")
    prompt = token_prompt().inputs
    with torch.no_grad():
        expected = model.generate(**prompt, max_new_tokens=6, do_sample=False)
    endpoints = [daemon.endpoint, f"{daemon.endpoint}#1"]
    options = {"daemons": f"{daemon.endpoint}#*", "placement": "blind", "placement_seed": 1}
    model.forward = torch.compile(model.forward, backend=genie, options=options)
    with torch.no_grad():
        assert torch.equal(model.generate(**prompt, max_new_tokens=6, do_sample=False), expected)
    assert [worker.calls > 1 for worker in daemon.statuses()] == [True, True]
    assert set(endpoints) <= {connection.endpoint for connection in CONNECTIONS.all()}


def test_connect_tells_all_devices_and_the_links_between_them(daemon: RealDaemon) -> None:
    found = dynamo_genie.connect(f"{daemon.endpoint}#*")
    names = [daemon.endpoint, f"{daemon.endpoint}#1"]
    assert [device["endpoint"] for device in found["daemons"]] == names
    assert {(link["source"], link["target"]) for link in found["links"]} >= {tuple(names), tuple(reversed(names))}


def test_a_device_that_is_not_there_is_named_with_what_there_is(daemon: RealDaemon) -> None:
    with pytest.raises(OptionError, match="there is no device 7: this daemon has 2, counted from 0"):
        dynamo_genie.connect(f"{daemon.endpoint}#7")


def test_when_one_devices_worker_dies_the_tensors_on_both_live_on(daemon: RealDaemon) -> None:
    kept, again = (on_device(daemon, number, lambda x: x + 1)(torch.zeros(2)) for number in (0, 1))
    dynamo_genie.connect(f"{daemon.endpoint}#1")  # answers when both were computed
    victim = daemon.statuses()[1].pid
    os.kill(victim, signal.SIGKILL)
    assert eventually(lambda: daemon.statuses()[1].pid not in (0, victim))
    assert kept.tolist() == again.tolist() == [1.0, 1.0]
