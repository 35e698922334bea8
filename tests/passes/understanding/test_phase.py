"""The phase of a graph, and of each region of it, is told from what looks at what."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from transformers import DynamicCache, StaticCache

from dynamo_genie.passes.graphs.semantics import Phase, Role, facts_of
from dynamo_genie.passes.understanding.attention import Attention
from tests.integration.models import make_model
from tests.passes.families import families, first_call, make
from tests.passes.understood import Understood, understand

IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])


def look(model: Any, **inputs: Any) -> Understood:
    run, calls = understand(model)
    with torch.no_grad():
        run(**inputs)
    (call,) = calls
    return call


def phase_at(attention: Attention) -> Phase | None:
    return facts_of(attention.node).phase


def regions(call: Understood) -> Counter[Phase | None]:
    return Counter(facts_of(node).phase for node in call.gm.graph.nodes if node.op == "call_function")


def input_phases(call: Understood, role: Role) -> list[Phase | None]:
    nodes = call.gm.graph.find_nodes(op="placeholder")
    return [facts_of(node).phase for node in nodes if facts_of(node).role is role]


@pytest.mark.parametrize(
    ("done", "new", "phase"), [(0, 7, Phase.PREFILL), (5, 1, Phase.DECODE), (5, 2, Phase.DECODE), (1, 6, Phase.PREFILL)]
)
def test_a_growing_cache_tells_a_step_from_a_prompt_by_the_tokens_on_top(done: int, new: int, phase: Phase) -> None:
    model = make_model("llama")
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        if done:
            model(input_ids=IDS[:, :done], past_key_values=cache)
    call = look(model.forward, input_ids=IDS[:, done : done + new], past_key_values=cache)
    assert call.analysis.phase is phase
    assert f"{new} queries over {done + new} keys" in call.analysis.phase_evidence[0]


@pytest.mark.parametrize(("new", "phase"), [(7, Phase.PREFILL), (1, Phase.DECODE)])
def test_a_static_cache_is_filled_by_many_tokens_and_stepped_by_one(new: int, phase: Phase) -> None:
    model = make_model("llama")
    cache = StaticCache(config=model.config, max_cache_len=16)
    cache.early_initialization(1, 2, 8, torch.float32, torch.device("cpu"))
    call = look(model.forward, input_ids=IDS[:, :new], past_key_values=cache)
    assert call.analysis.phase is phase
    assert len(call.analysis.caches) == 4


def test_a_prompt_without_a_cache_is_a_prefill() -> None:
    assert look(make_model("gpt2").forward, input_ids=IDS, use_cache=False).analysis.phase is Phase.PREFILL


def test_encoder_and_decoder_in_one_graph_are_regions_of_their_own() -> None:
    call = look(make_model("bart").forward, input_ids=IDS, decoder_input_ids=IDS[:, :3])
    assert call.analysis.phase is Phase.PREFILL
    layer = [Phase.PREFILL, Phase.CROSS_ATTENTION]
    assert [phase_at(attention) for attention in call.analysis.attentions] == [Phase.ENCODE] * 2 + layer * 2
    assert sorted(phase.value for phase in input_phases(call, Role.TOKEN_IDS) if phase) == ["encode", "prefill"]
    found = regions(call)
    assert min(found[phase] for phase in (Phase.ENCODE, Phase.PREFILL, Phase.CROSS_ATTENTION)) > 10


def test_the_towers_of_clip_are_told_apart() -> None:
    pixels = torch.randn(1, 3, 16, 16)
    call = look(make_model("clip").forward, input_ids=IDS, pixel_values=pixels, attention_mask=torch.ones_like(IDS))
    assert call.analysis.phase is Phase.ENCODE
    phases = Counter(phase_at(attention) for attention in call.analysis.attentions)
    assert phases == {Phase.VISION: 2, Phase.ENCODE: 2}
    assert input_phases(call, Role.TOKEN_IDS) == [Phase.ENCODE]
    (convolution,) = call.gm.graph.find_nodes(op="call_function", target=torch.ops.aten.convolution.default)
    assert facts_of(convolution).phase is Phase.VISION
    weights = Counter(input_phases(call, Role.WEIGHT))
    assert weights[Phase.VISION] > 20
    assert weights[Phase.ENCODE] > 20


def test_what_a_prompt_sees_is_vision_and_the_rest_is_prefill() -> None:
    family = next(family for family in families() if family.name == "llava")
    with torch._dynamo.config.patch(capture_scalar_outputs=True):
        run, calls = understand(make("llava").forward)
        with torch.no_grad():
            run(**first_call(family))
    phases = Counter(phase_at(attention) for call in calls for attention in call.analysis.attentions)
    assert phases == {Phase.VISION: 2, Phase.PREFILL: 2}


def test_the_state_of_a_recurrent_model_is_no_cache_and_no_sound() -> None:
    model = make("mamba")
    with torch.no_grad():
        state = model(input_ids=IDS, use_cache=True).cache_params
    call = look(model.forward, input_ids=IDS[:, :1], cache_params=state, use_cache=True)
    assert call.analysis.caches == ()
    assert call.analysis.phase is Phase.OTHER
