"""Roles follow from where inputs come from and from what reads them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from dynamo_genie.passes.roles import Origins, find_roles
from dynamo_genie.passes.semantics import Facts, Residency, Role, annotate, facts_of
from tests.captured import capture

NO_ORIGINS = Origins()


def roles_of(
    function: Callable[..., Tensor], *inputs: Tensor, origins: Origins = NO_ORIGINS
) -> tuple[GraphModule, list[Facts]]:
    kept: list[GraphModule] = []
    compiled, _ = capture(function, lambda gm: kept.append(gm) or gm)
    compiled(*inputs)
    gm = kept[0]
    annotate(find_roles(gm, origins))
    return gm, [facts_of(node) for node in gm.graph.find_nodes(op="placeholder")]


def test_parameters_are_weights_and_what_looks_them_up_are_token_ids() -> None:
    table, ids = torch.randn(10, 4), torch.tensor([1, 2])
    look_up = lambda tokens, weight: nn.functional.embedding(tokens, weight)
    gm, _ = roles_of(look_up, ids, table)
    examples = [node.meta["val"] for node in gm.graph.find_nodes(op="placeholder")]
    parameters = frozenset(i for i, example in enumerate(examples) if example.dtype == torch.float32)
    gm, inputs = roles_of(look_up, ids, table, origins=Origins(parameters))
    by_role = {facts.role: facts for facts in inputs}
    assert by_role[Role.WEIGHT].residency is Residency.PERSISTENT
    assert by_role[Role.WEIGHT].nbytes == 160
    assert by_role[Role.TOKEN_IDS].residency is Residency.STEP
    output = gm.graph.output_node().args[0][0]
    assert facts_of(output).role is Role.ACTIVATION
    assert facts_of(output).residency is Residency.STEP


def test_the_mask_of_an_attention_is_a_mask() -> None:
    q = torch.randn(1, 2, 4, 8)
    mask = torch.zeros(1, 1, 4, 4)
    _, inputs = roles_of(lambda x, m: nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=m), q, mask)
    assert sorted(facts.role.value for facts in inputs) == ["activation", "mask"]


def test_random_operators_and_intermediates_are_told_apart() -> None:
    gm, _ = roles_of(lambda x: (torch.rand_like(x) + x).sin().cos(), torch.randn(3))
    roles = {facts_of(node).role for node in gm.graph.nodes if node.op == "call_function"}
    assert roles == {Role.RNG, Role.ACTIVATION, Role.ACTIVATION}


def test_annotating_twice_says_that_nothing_is_new() -> None:
    gm, _ = roles_of(lambda x: x + 1, torch.randn(3))
    assert not annotate(find_roles(gm, Origins()))
    with pytest.raises(ValueError, match="ACTIVATION already and cannot become"):
        annotate(find_roles(gm, Origins(buffers=frozenset({0}))))
