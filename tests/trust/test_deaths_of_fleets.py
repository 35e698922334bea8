"""Two daemons that hold a model between them, killed one after the other or both at once: the same bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest
import torch

from dynamo_genie.bench.trust.training import PHASES, DisturbedTraining
from dynamo_genie.connections.connections import CONNECTIONS
from tests.integration.fleets.fleets import Fleet, fleet_of
from tests.integration.real_daemon import RealDaemon
from tests.trust.decoding import WAYS, Decoding

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with fleet_of("0", "0", more=("--standby",)) as fleet:
        yield fleet


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch._dynamo.reset()


def at_these_steps(fleet: Fleet, deaths: Mapping[int, tuple[int, ...]], die: Callable[[RealDaemon], object]) -> None:
    """Decode on a fleet; at these steps something happens to these of its daemons."""
    decoding = Decoding("gpt2", lambda forward: fleet.compile(forward, placement="blind"), **WAYS["sampled"])

    def happens() -> None:
        for at in deaths[decoding.steps]:
            die(fleet.daemons[at])

    before = recoveries()
    decoding.at, decoding.happens = deaths, happens
    assert torch.equal(decoding.run(), decoding.expected), f"after deaths at {deaths}"
    assert all(dict(state.peer_sent) for state in fleet.inspections()), "both send"
    assert recoveries() > before


def recoveries() -> int:
    return sum(c.session.recovery.count for c in CONNECTIONS.all() if c.session.recovery is not None)


def test_workers_killed_one_after_the_other_and_both_at_once_change_no_token(fleet: Fleet) -> None:
    at_these_steps(fleet, {4: (0,), 5: (1,), 24: (0, 1)}, RealDaemon.kill_worker)


def test_daemons_killed_and_started_again_on_their_ports_change_no_token() -> None:
    with fleet_of("0", "0") as fleet:
        at_these_steps(fleet, {6: (0,), 15: (1,)}, RealDaemon.restart)


@pytest.mark.parametrize("first", [3, 4])
def test_workers_killed_in_some_phases_of_training_change_nothing(fleet: Fleet, first: int) -> None:
    training = DisturbedTraining(lambda model: fleet.compile(model, placement="blind", placement_seed=3))
    expected = [value.tolist() for value in training.run()]
    before = recoveries()
    victims = iter([0, 1, 1] * PHASES)
    training.at = range(first, PHASES + 1, 4)
    training.happens = lambda: fleet.daemons[next(victims)].kill_worker()
    assert [value.tolist() for value in training.run()] == expected
    assert recoveries() > before
