"""Wrong facts may cut what is not worth it, or leave whole what is; they change no value. Two daemons, ten families."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynamo_genie import compiler
from dynamo_genie.passes.graphs.semantics import META_KEY, Phase, facts_of
from tests.integration.compare import same
from tests.integration.fleets.fleets import Fleet, fleet_of
from tests.integration.fleets.planned import LONG as LONG_MODELS
from tests.integration.fleets.planned import Plans, caches_of, prompt
from tests.integration.fleets.test_placement import generate, remote_copy
from tests.integration.models import image_prompt, make_model, token_prompt
from tests.integration.semantics.test_wrong_facts import wrong_facts

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(os.environ.get("GENIE_TEST_BACKEND", "genie") != "genie", reason="about facts"),
]

BATCH, TOKENS = 8, 1030
LONG = {"gpt2": {"n_positions": 2048}, "llama": {"max_position_embeddings": 2048}}
"""Families that see a prompt long enough to be cut by tokens; the others a batch large enough to be cut by samples."""

GENERATING = ("gpt2", "llama", "mistral", "gemma3", "t5", "bart")
ANSWERING = ("bert", "vit", "clip", "convnext")
FAST = ("gpt2", "vit")
TRUE_OF_SERVING = [phase for phase in Phase if phase is not Phase.TRAINING_FORWARD]
"""A graph that is said to train is never cut, so no lie says so."""


@pytest.fixture(scope="module")
def pair() -> Iterator[Fleet]:
    with fleet_of("0", "0") as fleet:
        yield fleet


@pytest.fixture(params=[0, pytest.param(1, marks=pytest.mark.slow)])
def seed(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def lie(monkeypatch: pytest.MonkeyPatch, seed: int, *, of_inputs: bool) -> list[int]:
    """Replace what the analysis says, of calls or of all; return how large the graphs are that were lied about."""
    source, honest = random.Random(seed), compiler.analyse
    deceived: list[int] = []

    def analyse(gm: Any, *args: Any, **kwargs: Any) -> Any:
        analysis = honest(gm, *args, **kwargs)
        for node in gm.graph.nodes:
            facts = replace(wrong_facts(source), phase=source.choice(TRUE_OF_SERVING))
            if of_inputs:
                node.meta[META_KEY] = facts
            elif node.op != "placeholder":  # groups are where stages may end
                node.meta[META_KEY] = replace(facts, group=facts_of(node).group)
        deceived.append(len(gm.graph.nodes))
        return analysis

    monkeypatch.setattr(compiler, "analyse", analyse)
    return deceived


def inputs_of(name: str) -> dict[str, Tensor]:
    if name in LONG:
        return token_prompt(length=TOKENS).inputs
    tokens = {} if name in ("vit", "convnext") else token_prompt(batch=BATCH, left_padding=2).inputs
    size = 32 if name == "convnext" else 16
    return {**tokens, **(image_prompt(batch=BATCH, size=size).inputs if name in ("vit", "clip", "convnext") else {})}


def families(*names: str) -> list[Any]:
    return [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", families(*GENERATING))
def test_tokens_stay_right(pair: Fleet, plans: Plans, monkeypatch: pytest.MonkeyPatch, seed: int, name: str) -> None:
    lies = lie(monkeypatch, seed, of_inputs=True)
    model: nn.Module = make_model(name, **LONG.get(name, {}))
    remote, inputs = remote_copy(pair, model), inputs_of(name)
    assert torch.equal(generate(remote, inputs, max_new_tokens=4), generate(model, inputs, max_new_tokens=4))
    assert lies
    assert plans.all, "pieces were thought of"


@pytest.mark.parametrize("name", families(*ANSWERING))
def test_results_stay_right(pair: Fleet, plans: Plans, monkeypatch: pytest.MonkeyPatch, seed: int, name: str) -> None:
    lies = lie(monkeypatch, seed, of_inputs=True)
    model, inputs = make_model(name), inputs_of(name)
    with torch.no_grad():
        same(dict(pair.compile(model)(**inputs)), dict(model(**inputs)))
    assert lies
    assert plans.all, "pieces were thought of"


@pytest.mark.parametrize("name", families("gpt2", "vit", "llama", "bert", "convnext"))
def test_graphs_that_lies_of_calls_do_not_save_from_pieces_stay_right(
    pair: Fleet, plans: Plans, monkeypatch: pytest.MonkeyPatch, seed: int, name: str
) -> None:
    """What an input is decides along which rows a graph is cut; what is said of calls, where its pieces go."""
    lies = lie(monkeypatch, seed, of_inputs=False)
    model, inputs = made(name)
    with torch.no_grad():
        result, expected = pair.compile(model)(**inputs), model(**inputs)
        same(result[0], expected[0])
        if name in LONG:
            same(caches_of(result), caches_of(expected))
    assert lies
    assert plans.in_pieces, [planned.plan.reasons for planned in plans.all]


def made(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """A model that is worth pieces, and a prompt without padding."""
    if name in LONG:
        return LONG_MODELS[name](), {"input_ids": prompt(1536)}
    inputs = inputs_of(name)
    inputs.pop("attention_mask", None)
    return make_model(name), inputs
