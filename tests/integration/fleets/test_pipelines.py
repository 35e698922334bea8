"""Prompts in pieces on two daemons that work at the same time: the bits of eager, caches where the layout says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynamo_genie.calls.in_parts import MOST_SIZES, InParts
from tests.integration.compare import same
from tests.integration.fleets.fleets import Fleet, fleet_of
from tests.integration.fleets.planned import (
    LAYERS,
    LONG,
    VOCAB,
    WIDTH,
    Plans,
    caches_of,
    device_of,
    long_gpt2,
    nbytes_of,
    prompt,
)
from tests.integration.fleets.test_placement import remote_copy

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.environ.get("GENIE_TEST_BACKEND", "genie") != "genie", reason="about daemons"),
]

STEPS = 16
GROWTH = 4
"""So many times a prompt's caches are kept free for what they grow by."""
FAMILIES = ["gpt2", pytest.param("llama", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def pair() -> Iterator[Fleet]:
    with fleet_of("0", "0") as fleet:
        yield fleet


@pytest.fixture(params=["gathered", "spread"])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def limit(plans: Plans, layout: str, model: nn.Module, tokens: int) -> None:
    """Let placement believe that no daemon holds everything, where caches are to be spread."""
    if layout == "spread":
        config: Any = model.config
        heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
        caches, logits = 2 * LAYERS * tokens * heads * WIDTH // config.num_attention_heads * 4, tokens * VOCAB * 4
        plans.memory_nbytes = (nbytes_of(model) + GROWTH * caches + logits) * 3 // 4


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prompt_in_pieces_gives_the_logits_and_caches_of_eager(
    pair: Fleet, plans: Plans, name: str, layout: str
) -> None:
    model, ids = LONG[name](), prompt(1536)
    limit(plans, layout, model, 1536)
    with torch.no_grad():
        expected = model(input_ids=ids)
        before = pair.traffic()
        result = remote_copy(pair, model)(input_ids=ids)
        homes = [{device_of(keys), device_of(values)} for keys, values in caches_of(result)]
        same(result.logits, expected.logits)
        same(caches_of(result), caches_of(expected))
        moved = pair.traffic() - before
    planned = plans.only
    assert planned.in_pieces, planned.plan.reasons
    assert planned.because(f"its caches {'gathered' if layout == 'gathered' else 'where'}", "3 pieces")
    assert planned.because("shorter than")
    assert planned.devices == pair.endpoints * 3 or planned.devices == pair.endpoints[::-1] * 3
    first, last = planned.devices[:2]
    assert planned.crossed == {(first, last)}
    if layout == "gathered":
        assert homes == [{last}] * LAYERS
    else:
        assert homes[0] == {first}
        assert homes[-1] == {last}
    assert sum(moved.peer_sent.values()) >= 1536 * WIDTH * 4, "hidden states of all tokens at least"


@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_after_a_prompt_in_pieces_are_those_of_eager(pair: Fleet, plans: Plans, name: str, layout: str) -> None:
    model, ids = LONG[name](), prompt(1100)
    limit(plans, layout, model, 1100 + STEPS)
    expected = greedy(model, ids)
    assert expected[0, 1100:].unique().numel() > 3, "a model that repeats itself would hide a wrong cache"
    before = pair.traffic()
    assert torch.equal(greedy(remote_copy(pair, model), ids), expected)
    moved = pair.traffic() - before
    assert [planned.in_pieces for planned in plans.all[:2]] == [True, False], "the prompt, and no step"
    assert not any(planned.in_pieces for planned in plans.all[1:])
    steps = {device for planned in plans.all[1:] for device in planned.devices}
    assert len(steps) == (1 if layout == "gathered" else 2)
    if layout == "spread":
        assert moved.peer_sent["kv_cache"] < expected.shape[1] * WIDTH * 4, "caches stay where they are made"


def greedy(model: nn.Module, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model.generate(input_ids=ids, max_new_tokens=STEPS + 1, do_sample=False)


LENGTHS = (128, 512, 1000, 1024, 1100, 1536, 2000)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_prompts_of_many_lengths_with_one_function(pair: Fleet, plans: Plans, name: str) -> None:
    model = LONG[name]()
    remote = remote_copy(pair, model)
    with torch.no_grad():
        for length in (*LENGTHS, *LENGTHS[::-1]):
            result, expected = remote(input_ids=prompt(length)), model(input_ids=prompt(length))
            same(result.logits, expected.logits)
            same(caches_of(result), caches_of(expected))
            for planned in plans.take():
                assert planned.in_pieces == (length >= 1024), (length, planned.plan.reasons)


@pytest.mark.slow
def test_so_many_placements_are_kept_of_prompts_and_no_more(
    pair: Fleet, plans: Plans, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[InParts] = []
    call = InParts.__call__

    def listen(self: InParts, args: Any) -> Any:
        seen.append(self)
        return call(self, args)

    monkeypatch.setattr(InParts, "__call__", listen)
    remote = remote_copy(pair, long_gpt2(n_layer=1))
    lengths = [1000, *range(1024, 1024 + 2 * MOST_SIZES + 4)]
    with torch.no_grad():
        for length in lengths:
            remote(input_ids=prompt(length))
        assert len(plans.all) == len(lengths)
        remote(input_ids=prompt(lengths[-1]))
        assert len(plans.all) == len(lengths), "the last one is kept"
        remote(input_ids=prompt(lengths[4]))
        assert len(plans.all) == len(lengths) + 1, "an old one is not"
    assert max(len(graph._placed) for graph in seen) == MOST_SIZES
