"""`generate()` with growing caches where decode steps are recorded: the tokens of eager PyTorch, and steps replayed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch

from dynamo_genie.backend import genie
from dynamo_genie.connections.connections import CONNECTIONS
from dynamo_genie.remote_daemon.engines import build
from dynamo_genie.remote_daemon.engines.choice import choose
from dynamo_genie.remote_daemon.worker import state
from tests.in_process import connections_in_process
from tests.integration.models import make_model, token_prompt
from tests.remote_daemon.recorded import TapeRecorder

NEW_TOKENS = 16


@pytest.fixture
def recorders() -> Iterator[list[TapeRecorder]]:
    """Let a worker in this process record on tapes what a GPU's would record as CUDA graphs."""
    made: list[TapeRecorder] = []

    def recorder(device: torch.device) -> TapeRecorder:
        made.append(TapeRecorder(device))
        return made[-1]

    def as_on_a_gpu(wanted: str, traits: Any, device_type: str, missing: str = "") -> Any:
        return choose(wanted, traits, "cuda", missing)

    CONNECTIONS.shutdown()
    with pytest.MonkeyPatch.context() as patch, connections_in_process():
        patch.setattr(build, "choose", as_on_a_gpu)
        patch.setattr(state, "Engines", partial(build.Engines, recorder=recorder))
        yield made


def generate(model: Any) -> list[list[int]]:
    inputs = token_prompt(batch=1).inputs
    with torch.no_grad():
        tokens = model.generate(
            inputs["input_ids"], attention_mask=torch.ones_like(inputs["input_ids"]), max_new_tokens=NEW_TOKENS,
            do_sample=False,
        )  # fmt: skip
    return tokens.tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_steps_are_replayed_and_tokens_are_those_of_eager(recorders: list[TapeRecorder], name: str) -> None:
    model = make_model(name)
    expected = generate(model)
    model.compile(backend=genie)
    for _ in range(2):
        assert generate(model) == expected
    [recorder] = recorders
    assert recorder.replays >= 2 * (NEW_TOKENS - 4)
    assert 1 <= recorder.recordings <= 4
