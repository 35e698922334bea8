"""Roles follow from where inputs come from, what reads them, and what makes the results."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynamo_genie.passes.graphs.graph_view import result_nodes
from dynamo_genie.passes.graphs.origins import Origins
from dynamo_genie.passes.graphs.semantics import Facts, Residency, Role, annotate, facts_of
from dynamo_genie.passes.understanding.roles import find_roles
from tests.integration.models import make_model
from tests.passes.understood import Understood, understand


class LookUp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)
        self.register_buffer("scale", torch.tensor([2.0]))

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids) * self.scale


def look(function: Any, *inputs: Any, **named: Any) -> Understood:
    compiled, calls = understand(function)
    compiled(*inputs, **named)
    return calls[0]


def inputs_of(call: Understood) -> list[Facts]:
    return [facts_of(node) for node in call.gm.graph.find_nodes(op="placeholder")]


def results_of(call: Understood) -> list[Facts]:
    return [facts_of(node) for node in result_nodes(call.gm)]


def test_parameters_are_weights_buffers_are_buffers_and_what_looks_rows_up_are_token_ids() -> None:
    with torch.no_grad():
        call = look(LookUp(), torch.tensor([1, 2]))
    by_role = {facts.role: facts for facts in inputs_of(call)}
    assert by_role.keys() == {Role.WEIGHT, Role.BUFFER, Role.TOKEN_IDS}
    assert by_role[Role.WEIGHT].residency is by_role[Role.BUFFER].residency is Residency.PERSISTENT
    assert (by_role[Role.WEIGHT].nbytes, by_role[Role.WEIGHT].dtype) == (160, "float32")
    assert by_role[Role.TOKEN_IDS].residency is Residency.STEP
    (output,) = results_of(call)
    assert (output.role, output.residency) == (Role.ACTIVATION, Residency.STEP)


def test_the_mask_of_an_attention_is_a_mask() -> None:
    q, mask = torch.randn(1, 2, 4, 8), torch.zeros(1, 1, 4, 4)
    call = look(lambda x, m: nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=m), q, mask)
    assert sorted(facts.role.value for facts in inputs_of(call)) == ["activation", "mask"]


def test_random_operators_constants_and_intermediates_are_told_apart() -> None:
    call = look(lambda x: (torch.rand_like(x) + x + torch.arange(3)).sin().cos(), torch.randn(3))
    roles = Counter(facts_of(node).role for node in call.gm.graph.nodes if node.op == "call_function")
    assert roles == {Role.RNG: 1, Role.CONSTANT: 1, Role.ACTIVATION: 4}


@pytest.mark.parametrize("name", ["gpt2", "llama", "bart", "whisper"])
def test_scores_of_the_vocabulary_are_logits_tied_or_not(name: str) -> None:
    model = make_model(name)
    ids = torch.tensor([[5, 6, 7]])
    named = {"input_ids": ids} if name != "whisper" else {"input_features": torch.randn(1, 8, 32)}
    named |= {"decoder_input_ids": ids} if name in ("bart", "whisper") else {}
    with torch.no_grad():
        call = look(model.forward, **named)
    logits = [facts for facts in results_of(call) if facts.role is Role.LOGITS]
    assert len(logits) == 1
    assert "as many as an embedding has rows" in logits[0].evidence[0]


def test_positions_say_where_a_static_cache_is_written() -> None:
    from transformers import StaticCache

    model = make_model("llama")
    cache = StaticCache(config=model.config, max_cache_len=16)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        model(input_ids=ids, past_key_values=cache)
        call = look(model.forward, input_ids=ids[:, :1], past_key_values=cache)
    roles = Counter(facts.role for facts in inputs_of(call))
    assert roles[Role.KV_CACHE] == 4
    assert roles[Role.POSITION] == 2  # one counter a layer
    assert roles[Role.TOKEN_IDS] == 1
    assert roles[Role.BUFFER] == 1  # the frequencies of the rotation
    assert Role.ACTIVATION not in {facts.role for facts in inputs_of(call) if facts.dtype}


def test_a_training_step_has_a_loss_and_gradients() -> None:
    model = make_model("gpt2")
    ids = torch.tensor([[5, 6, 7, 8]])

    def loss_of(ids: Tensor) -> Tensor:
        logits = model(input_ids=ids, use_cache=False).logits
        return nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])

    compiled, calls = understand(loss_of)
    compiled(ids).backward()
    forward, backward = calls
    assert results_of(forward)[0].role is Role.LOSS
    gradients = [facts.role for facts in results_of(backward) if facts.dtype is not None]
    assert set(gradients) == {Role.GRADIENT}
    assert [facts.role for facts in inputs_of(backward)].count(Role.GRADIENT) == 1
    assert Role.WEIGHT in {facts.role for facts in inputs_of(backward)}


def test_every_fact_says_how_sure_it_is() -> None:
    with torch.no_grad():
        call = look(make_model("llama").forward, input_ids=torch.tensor([[5, 6, 7]]))
    known = [facts_of(node) for node in call.gm.graph.nodes if node.op != "output"]
    assert all(facts.role is not None and facts.confidence is not None for facts in known)


def test_annotating_twice_says_that_nothing_is_new_and_a_contradiction_is_refused() -> None:
    call = look(lambda x: x + 1, torch.randn(3))
    assert not annotate(find_roles(call.gm, Origins()))
    node = next(iter(call.gm.graph.nodes))
    with pytest.raises(ValueError, match="ACTIVATION already and cannot become"):
        annotate({node: Facts(role=Role.WEIGHT)})
