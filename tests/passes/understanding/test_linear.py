"""The work of all passes grows with the graph and no faster: counted in function calls, not in seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

import torch
from transformers import DynamicCache

from dynamo_genie.passes.understanding.analysis import analyse
from tests.integration.models import make_model
from tests.passes.understood import Understood, understand


def decode_graph(layers: int) -> Understood:
    model = make_model("llama", num_hidden_layers=layers)
    cache = DynamicCache(config=model.config)
    ids = torch.tensor([[5, 6, 7]])
    run, calls = understand(model.forward)
    with torch.no_grad():
        model(input_ids=ids, past_key_values=cache)
        run(input_ids=ids[:, :1], past_key_values=cache)
    return calls[0]


def calls_made_by(work: Callable[[], object]) -> int:
    count = 0

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_twice_the_layers_are_twice_the_work() -> None:
    few, more, many = (decode_graph(layers) for layers in (2, 4, 8))
    cost = [calls_made_by(lambda g=graph: analyse(g.gm, g.origins)) for graph in (few, more, many)]
    first, second = cost[1] - cost[0], cost[2] - cost[1]
    assert 1.9 < second / first < 2.1
