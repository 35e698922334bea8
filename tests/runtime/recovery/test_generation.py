"""A worker that dies at each step of a generation, whatever the cache and the way to choose tokens: the same tokens."""

from __future__ import annotations

import pytest
import torch

from tests.in_process import Workers, connections_in_process
from tests.trust.decoding import STEPS, WAYS, Decoding


def decode(name: str, way: str) -> Decoding:
    torch._dynamo.reset()
    decoding = Decoding(name, lambda forward: torch.compile(forward, backend="genie"), **WAYS[way])
    assert decoding.expected.unique().numel() > 8, "a model that repeats itself would hide a wrong cache"
    return decoding


def assert_nothing_changes(decoding: Decoding, *steps: int) -> None:
    """Generate; a worker dies at each of these steps."""
    workers = Workers()
    with connections_in_process(workers):
        opened = torch.compile(torch.sin, backend="genie")(torch.ones(2))
        decoding.at, decoding.happens = steps, workers.kill
        assert torch.equal(decoding.run(), decoding.expected), f"after deaths at {steps}"
        assert (workers.died, decoding.steps) == (len(steps), STEPS)
        assert opened.tolist() == torch.ones(2).sin().tolist()


@pytest.mark.parametrize(("name", "way"), [("gpt2", "greedy"), ("llama", "static-sampled")])
def test_deaths_at_some_steps_change_no_token(name: str, way: str) -> None:
    assert_nothing_changes(decode(name, way), 1, 2, 9, 10, 24, STEPS)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", [pytest.param(w, marks=() if w == "sampled" else pytest.mark.sweep) for w in WAYS])
@pytest.mark.parametrize("name", [*(pytest.param(n, marks=pytest.mark.sweep) for n in ("gpt2", "llama")), "t5"])
def test_a_death_at_any_step_changes_no_token(name: str, way: str) -> None:
    decoding = decode(name, way)
    for step in range(1, STEPS + 1):
        assert_nothing_changes(decoding, step)
