"""Workers and daemons that are killed under real programs: nothing of the user's notices, and no bit is another one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection, Iterator
from typing import Any

import pytest
import torch

import dynamo_genie
from dynamo_genie.bench.trust.training import PHASES, DisturbedTraining
from dynamo_genie.connections.connections import CONNECTIONS
from tests.integration.real_daemon import RealDaemon
from tests.trust.decoding import STEPS, WAYS, Decoding

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def daemon() -> Iterator[RealDaemon]:
    with RealDaemon(more=("--standby",)) as daemon:
        yield daemon
    dynamo_genie.shutdown()


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch._dynamo.reset()


def compile_for(daemon: RealDaemon) -> Callable[[Any], Any]:
    return lambda target: torch.compile(target, backend="genie", options={"daemons": [daemon.endpoint]})


def open_session(daemon: RealDaemon) -> None:
    assert compile_for(daemon)(torch.cos)(torch.zeros(2)).tolist() == [1.0, 1.0]


def recoveries() -> int:
    """Return how often another worker took the place of one that this process used."""
    return sum(c.session.recovery.count for c in CONNECTIONS.all() if c.session.recovery is not None)


def some(firsts: Collection[int], of: int) -> list[Any]:
    """Return these of the numbers from 1 for every run, and the others for the sweep."""
    marks = {first: () if first in firsts else (pytest.mark.sweep,) for first in range(1, of + 1)}
    return [pytest.param(first, marks=marks[first]) for first in marks]


@pytest.mark.parametrize("first", some((3,), 8))
@pytest.mark.parametrize(("name", "way"), [("gpt2", "greedy"), ("llama", "static-sampled"), ("t5", "sampled")])
def test_a_worker_killed_at_each_step_changes_no_token(daemon: RealDaemon, name: str, way: str, first: int) -> None:
    """Steps that nobody waits for are over in no time, so one worker may be killed for several of them."""
    decoding = Decoding(name, compile_for(daemon), **WAYS[way])
    open_session(daemon)
    before = recoveries()
    decoding.at, decoding.happens = range(first, STEPS + 1, 8), daemon.kill_worker
    assert torch.equal(decoding.run(), decoding.expected), f"killed at {list(decoding.at)}"
    assert decoding.steps == STEPS
    assert recoveries() > before


@pytest.mark.parametrize("first", some((2, 4), 5))
def test_a_worker_killed_in_each_phase_of_training_changes_nothing(daemon: RealDaemon, first: int) -> None:
    training = DisturbedTraining(compile_for(daemon))
    expected = [value.tolist() for value in training.run()]
    assert training.phases == PHASES
    before = recoveries()
    training.at, training.happens = range(first, PHASES + 1, 5), daemon.kill_worker
    assert [value.tolist() for value in training.run()] == expected
    assert recoveries() > before


def test_a_daemon_killed_and_started_again_on_its_port_changes_nothing() -> None:
    with RealDaemon() as daemon:
        decoding = Decoding("gpt2", compile_for(daemon), **WAYS["sampled"])
        open_session(daemon)
        decoding.at, decoding.happens = (5, 20), daemon.restart
        assert torch.equal(decoding.run(), decoding.expected)
        kept = compile_for(daemon)(torch.sin)(torch.ones(3))
        daemon.restart()
        assert (kept + 1).tolist() == (torch.ones(3).sin() + 1).tolist()
        CONNECTIONS.shutdown()


def test_a_worker_that_stands_still_costs_its_time_alone(daemon: RealDaemon) -> None:
    step = compile_for(daemon)(torch.sin)
    kept = step(torch.ones(3))
    kept.tolist()
    os.kill(daemon.worker(), signal.SIGSTOP)
    assert (kept + 1).tolist() == (torch.ones(3).sin() + 1).tolist()
    assert recoveries() > 0


def test_an_embedded_daemon_that_is_killed_is_started_again() -> None:
    decoding = Decoding("llama", lambda target: torch.compile(target, backend="genie"), **WAYS["greedy"])
    before = torch.compile(torch.sin, backend="genie")(torch.ones(3))
    daemon = CONNECTIONS._embedded
    assert daemon is not None
    decoding.at, decoding.happens = (7,), lambda: os.kill(daemon.pid, signal.SIGKILL)
    assert torch.equal(decoding.run(), decoding.expected)
    assert before.tolist() == torch.ones(3).sin().tolist()
    assert CONNECTIONS._embedded is not daemon
    CONNECTIONS.shutdown()
