"""Engines through `torch.compile`: the same results, and what the user hears where an engine cannot be had."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import dynamo_genie
from dynamo_genie.backend import genie
from dynamo_genie.connections.connections import CONNECTIONS
from dynamo_genie.errors import EngineWarning
from tests.integration.real_daemon import RealDaemon

LIMIT_S = 240.0

NEEDS_A_DAEMON = True
"""Engines that compile do so in another process, while calls go on."""


@pytest.fixture(scope="module")
def daemon() -> Iterator[RealDaemon]:
    with RealDaemon() as running:
        yield running
        dynamo_genie.shutdown()


def layer() -> Any:
    return torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU(), torch.nn.Linear(8, 4)).eval()


def engine_in_use() -> set[str]:
    return {
        engine for connection in CONNECTIONS.all() for _, engine, _ in connection.session.inspect(engines=True).engines
    }


@pytest.mark.parametrize("engine", ["cudagraphs", "tensorrt"])
def test_an_engine_that_cannot_be_had_is_named_once_and_the_result_is_right(daemon: RealDaemon, engine: str) -> None:
    model, x = layer(), torch.randn(3, 8)
    with torch.no_grad():
        expected = model(x)
        model = torch.compile(model, backend=genie, options={"daemons": daemon.endpoint, "engine": engine})
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            for _ in range(3):
                torch.testing.assert_close(model(x).clone(), expected, rtol=0, atol=0)
    [message] = [str(one.message) for one in heard if issubclass(one.category, EngineWarning)]
    assert f"runs eager in the daemon: {engine} was asked for, but" in message


def test_auto_says_nothing(daemon: RealDaemon) -> None:
    model, x = layer(), torch.randn(3, 8)
    model = torch.compile(model, backend=genie, options={"daemons": daemon.endpoint})
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", EngineWarning)
        model(x).clone()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_inductor_takes_over_in_the_daemon_once_it_has_compiled(daemon: RealDaemon) -> None:
    model, x = layer(), torch.randn(3, 8)
    with torch.no_grad():
        expected = model(x)
        model = torch.compile(model, backend=genie, options={"daemons": daemon.endpoint, "engine": "inductor"})
        deadline = time.monotonic() + LIMIT_S
        bits = set()
        while len(bits) < 2 and time.monotonic() < deadline:
            found = model(x).clone()
            torch.testing.assert_close(found, expected)
            bits.add(tuple(found.flatten().tolist()))
            if time.monotonic() > deadline - LIMIT_S + 60:
                break  # compiled code may well give eager's bits
            time.sleep(0.5)
    assert "inductor" in engine_in_use()
