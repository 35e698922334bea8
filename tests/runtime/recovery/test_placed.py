"""A model placed on two daemons whose workers die, one after the other or both at once: the run notices nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.in_process import Links, Workers, connections_in_process
from tests.runtime.recovery.test_training import Training
from tests.trust.decoding import STEPS, WAYS, Decoding

FIRST, SECOND = ENDPOINTS = ("ipc://first", "ipc://second")
BOTH = ENDPOINTS

SPLIT = int(0.12 * (1 << 20))
"""With so much memory a daemon holds most of a tiny model, and not all."""


def compile_placed(target: Any, **options: Any) -> Any:
    ends = ["client", *ENDPOINTS]
    links = [f"{one}~{other}=1e-4,1e9" for i, one in enumerate(ends) for other in ends[i + 1 :]]
    return torch.compile(target, backend="genie", options={"daemons": list(ENDPOINTS), "links": links, **options})


def two_daemons(memory_limit: int) -> dict[str, Workers]:
    links = Links()
    return {endpoint: Workers(links=links, memory_limit=memory_limit) for endpoint in ENDPOINTS}


class Placed:
    """A model that decodes, placed on two daemons."""

    def __init__(self, name: str, way: str, memory_limit: int = SPLIT, **options: Any) -> None:
        torch._dynamo.reset()
        self._memory_limit = memory_limit
        self._decoding = Decoding(name, lambda forward: compile_placed(forward, **options), **WAYS[way])

    def check(self, deaths: Mapping[int, tuple[str, ...]]) -> None:
        """Generate; at these steps the workers of these daemons die."""
        daemons, decoding = two_daemons(self._memory_limit), self._decoding

        def die() -> None:
            for endpoint in deaths[decoding.steps]:
                daemons[endpoint].kill()

        with connections_in_process(fleet=daemons):
            opened = compile_placed(torch.sin)(torch.ones(2))
            decoding.at, decoding.happens = deaths, die
            assert torch.equal(decoding.run(), decoding.expected), f"after deaths at {deaths}"
            assert decoding.steps == STEPS
            assert opened.tolist() == torch.ones(2).sin().tolist()
            assert daemons[FIRST].links.sent >= STEPS, "every step sends something from daemon to daemon"
            assert sum(each.died for each in daemons.values()) == sum(map(len, deaths.values()))


WAYS_TO_DIE = ((FIRST,), (SECOND,), BOTH)


@pytest.mark.parametrize("placement", ["semantic", pytest.param("blind", marks=pytest.mark.slow)])
def test_deaths_at_some_steps_change_no_token(placement: str) -> None:
    placed = Placed("gpt2", "greedy", placement=placement, memory_limit=SPLIT if placement == "semantic" else 1 << 30)
    placed.check({})
    placed.check({4: (FIRST,), 5: (SECOND,), 11: (SECOND,), 20: (FIRST,), STEPS: BOTH})
    placed.check({2: BOTH, 7: (SECOND,), 8: (SECOND,), 9: (SECOND,)})


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("gpt2", "sampled"),
        *(pytest.param(*each, marks=pytest.mark.sweep) for each in (("llama", "static"), ("t5", "greedy"))),
    ],
)
def test_a_death_at_any_step_changes_no_token(name: str, way: str) -> None:
    placed = Placed(name, way, memory_limit=1 << 30, placement="blind")
    for step in range(1, STEPS + 1):
        placed.check({step: WAYS_TO_DIE[step % 3], step % STEPS + 1: WAYS_TO_DIE[step % 2]})


class PlacedTraining(Training):
    """The same on two daemons."""

    def compile(self) -> Any:
        return compile_placed(self.model, placement="blind", placement_seed=3)

    def on(self, daemons: Mapping[str, Workers]) -> list[Tensor]:
        return self.outcome_through(connections_in_process(fleet=daemons))


@pytest.fixture(scope="module")
def training() -> PlacedTraining:
    torch._dynamo.reset()
    return PlacedTraining()


def check_training(training: PlacedTraining, every: int, *, both: bool) -> None:
    """Train; a worker dies at each of so many messages, before it takes that or after, and the other soon after it."""
    undisturbed = two_daemons(1 << 30)
    expected = training.on(undisturbed)
    opening = 2
    for at, (victim, other) in enumerate((ENDPOINTS, ENDPOINTS[::-1])):
        for number in range(opening + 1 + at, undisturbed[victim].sent + 1, every):
            daemons = two_daemons(1 << 30)
            daemons[victim].dies_at, daemons[victim].after = number, number % 2 == 0
            daemons[other].dies_at = number + 4 if both else 0
            for value, wanted in zip(training.on(daemons), expected, strict=True):
                assert torch.equal(value, wanted), f"{victim} died at message {number}"
            assert daemons[victim].died == 1


def test_a_death_at_some_messages_of_a_training_run_changes_no_bit(training: PlacedTraining) -> None:
    check_training(training, 11, both=False)
    check_training(training, 17, both=True)


@pytest.mark.slow
def test_a_death_at_any_message_of_a_training_run_changes_no_bit(training: PlacedTraining) -> None:
    check_training(training, 1, both=False)
    check_training(training, 1, both=True)
