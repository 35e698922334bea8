"""Facts may cost time and never change a value: every fact of every node is replaced by a wrong one."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.fx import GraphModule

from dynamo_genie import compiler
from dynamo_genie.passes.graphs.semantics import META_KEY, Facts, Phase, Residency, Role
from tests.integration.compare import same
from tests.integration.conftest import Compile
from tests.integration.fleets.fleets import Fleet, fleet_of
from tests.integration.fleets.test_placement import generate, remote_copy
from tests.integration.models import audio_prompt, image_prompt, make_model, token_prompt

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(os.environ.get("GENIE_TEST_BACKEND", "genie") != "genie", reason="about facts"),
]

FAST = ("gpt2", "llama", "bert", "clip")
"""The families of the fast suite; the others are slow."""


def families(*names: str) -> list[Any]:
    return [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in names]


GENERATING = families("gpt2", "llama", "mistral", "gemma3", "t5", "bart")
ANSWERING = families("bert", "vit", "clip", "convnext")


def wrong_facts(random_source: random.Random) -> Facts:
    return Facts(
        role=random_source.choice([*Role, Role.KV_CACHE, Role.KV_CACHE]),
        phase=random_source.choice(list(Phase)),
        residency=random_source.choice(list(Residency)),
        group=random_source.choice(["a", "b", "c", None]),
        priority=random_source.randrange(-5, 5),
        nbytes=random_source.choice([None, 0, 1, random_source.randrange(1 << 40)]),
        flops=random_source.choice([None, 0, random_source.randrange(1 << 50)]),
        dtype=random_source.choice(["float32", "bool", None]),
        confidence=random_source.random(),
        evidence=("made up",),
    )


@pytest.fixture(params=[0, pytest.param(1, marks=pytest.mark.slow)])
def lies(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[GraphModule]:
    """Replaces all that the analysis says; returns the graphs that were lied about."""
    source = random.Random(request.param)
    honest = compiler.analyse
    deceived: list[GraphModule] = []

    def analyse(gm: GraphModule, *args: Any, **kwargs: Any) -> Any:
        analysis = honest(gm, *args, **kwargs)
        for node in gm.graph.nodes:
            node.meta[META_KEY] = wrong_facts(source)
        deceived.append(gm)
        return analysis

    monkeypatch.setattr(compiler, "analyse", analyse)
    return deceived


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with fleet_of("0", "0") as fleet:
        yield fleet


def prompt_of(name: str) -> dict[str, torch.Tensor]:
    return (audio_prompt() if name == "whisper" else token_prompt(batch=2, left_padding=2)).inputs


@pytest.mark.parametrize("name", GENERATING)
def test_tokens_stay_right_on_one_daemon(name: str, lies: list[GraphModule], compiled: Compile) -> None:
    model = make_model(name)
    remote = make_model(name)
    remote.forward = compiled(remote.forward)
    for cache in ({}, {"cache_implementation": "static"}):
        assert torch.equal(generate(remote, prompt_of(name), **cache), generate(model, prompt_of(name), **cache))
    assert lies


@pytest.mark.parametrize("policy", ["semantic", "blind"])
@pytest.mark.parametrize("name", GENERATING)
def test_tokens_stay_right_on_two_daemons(name: str, policy: str, lies: list[GraphModule], fleet: Fleet) -> None:
    model = make_model(name)
    remote = remote_copy(fleet, model, placement=policy)
    assert torch.equal(generate(remote, prompt_of(name)), generate(model, prompt_of(name)))
    assert lies


@pytest.mark.parametrize("name", ANSWERING)
def test_results_stay_right_on_two_daemons(name: str, lies: list[GraphModule], fleet: Fleet) -> None:
    model = make_model(name)
    inputs = dict(token_prompt().inputs) if name in ("bert", "clip") else {}
    if name != "bert":
        inputs.update(image_prompt(size=32 if name == "convnext" else 16).inputs)
    with torch.no_grad():
        same(dict(fleet.compile(model)(**inputs)), dict(model(**inputs)))
    assert lies
