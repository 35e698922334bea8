"""A device too small for all its sessions: they take turns in its memory, and every token is what eager gives.

The device is simulated in host memory (`simulated_worker`); client, daemon, worker and wire are real.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor

import dynamo_genie
from dynamo_genie.backend import genie
from tests.integration.real_daemon import SimulatedDaemon

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.environ.get("GENIE_TEST_BACKEND", "genie") != "genie", reason="about daemons"),
]

WIDTH, LAYERS, LENGTH, STEPS = 128, 4, 400, 6
CACHE_NBYTES = LAYERS * 2 * LENGTH * WIDTH * 4


def gpt2() -> Any:
    torch.manual_seed(0)
    config = hf.GPT2Config(
        n_embd=WIDTH, n_layer=LAYERS, n_head=4, vocab_size=512, n_positions=1024, initializer_range=0.2
    )
    return hf.GPT2LMHeadModel(config).eval()


class Dialogue:
    """One user: a cache that grows by a token at each step, and the same by eager PyTorch."""

    def __init__(self, endpoint: str, seed: int, static: bool) -> None:
        self.eager, model = gpt2(), gpt2()
        self.forward = torch.compile(model.forward, backend=genie, options={"daemons": endpoint})
        self.expected = self._cache(self.eager, static)
        self.cache = self._cache(model, static)
        self.next = torch.randint(1, 512, (1, LENGTH), generator=torch.Generator().manual_seed(seed))
        self.at = 0

    @staticmethod
    def _cache(model: Any, static: bool) -> Any:
        return hf.StaticCache(model.config, max_cache_len=LENGTH + STEPS + 2) if static else hf.DynamicCache()

    def step(self) -> None:
        """Feed what comes next to both, and compare."""
        position = torch.arange(self.at, self.at + self.next.shape[1])
        with torch.no_grad():
            right = self._logits(self.eager, self.expected, position)
            found = self._logits(self.forward, self.cache, position)
        assert torch.equal(found, right)
        self.at += self.next.shape[1]
        self.next = right.argmax(-1, keepdim=True)

    def _logits(self, forward: Any, cache: Any, position: Tensor) -> Tensor:
        out = forward(self.next, past_key_values=cache, cache_position=position, use_cache=True, logits_to_keep=1)
        return out.logits[:, -1] + 0


ROOM = {"dynamic": 2.2, "static": 1.6}
"""Caches that fit beside the weights: more than one with what it needs to grow, fewer than two."""


@pytest.fixture(params=list(ROOM))
def dialogues(request: pytest.FixtureRequest) -> Iterator[tuple[SimulatedDaemon, list[Dialogue]]]:
    dynamo_genie.shutdown()  # sessions that other tests of this process left open
    weights = sum(p.nbytes for p in gpt2().parameters())
    with SimulatedDaemon(memory_limit=str(weights + int(ROOM[request.param] * CACHE_NBYTES))) as daemon:
        port = daemon.endpoint.rpartition(":")[2]
        hosts = ("127.0.0.1", "localhost")  # two names, two sessions
        yield (
            daemon,
            [Dialogue(f"tcp://{host}:{port}", seed, request.param == "static") for seed, host in enumerate(hosts)],
        )
        dynamo_genie.shutdown()


def test_dialogues_that_do_not_fit_together_take_turns(
    dialogues: tuple[SimulatedDaemon, list[Dialogue]],
) -> None:
    daemon, users = dialogues
    spilled = []
    for _ in range(STEPS):
        for user in users:
            user.step()
            spilled.append(max(session.spilled_nbytes for session in daemon.status().sessions))
    assert max(spilled) > CACHE_NBYTES // 4, "nothing had to go: this test shows nothing"
