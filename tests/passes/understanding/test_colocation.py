"""A cache shares its group with whatever updates and reads it, and keys share theirs with values."""

import pytest
import torch
from torch.fx import GraphModule, Node

from dynamo_genie.passes.graphs.graph_view import is_attention
from dynamo_genie.passes.graphs.semantics import facts_of
from dynamo_genie.passes.understanding.analysis import Analysis
from dynamo_genie.passes.understanding.colocation import CACHE_PRIORITY, PARTS_PRIORITY, find_groups
from tests.captured import capture
from tests.integration.models import make_model, token_prompt
from tests.placed import prepare

Seen = list[tuple[GraphModule, Analysis]]


def graphs_of_generation(name: str, cache: str) -> Seen:
    seen: Seen = []

    def look(gm: GraphModule) -> GraphModule:
        seen.append(prepare(gm))
        return seen[-1][0]

    model = make_model(name)
    model.forward, _ = capture(model.forward, look)
    inputs = token_prompt(length=7).inputs
    model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False, cache_implementation=cache)
    return seen


def group_of(node: Node) -> str | None:
    return facts_of(node).group


@pytest.mark.parametrize(("name", "cache"), [("gpt2", "dynamic"), ("llama", "static"), ("gpt2", "static")])
def test_a_cache_is_in_one_group_with_its_attention_layer_by_layer(name: str, cache: str) -> None:
    for gm, analysis in graphs_of_generation(name, cache):
        attentions = [node for node in gm.graph.nodes if is_attention(node)]
        groups = [group_of(attention) for attention in attentions]
        assert len(set(groups)) == len(attentions) == 2
        for found in analysis.caches:
            assert group_of(found.after) in groups
            assert found.before is None or group_of(found.before) == group_of(found.after)
        assert sorted(map(str, (group_of(found.after) for found in analysis.caches))) == sorted(map(str, groups * 2))


def test_writing_back_a_static_cache_belongs_to_its_group() -> None:
    _, (gm, analysis), *_ = graphs_of_generation("llama", "static")
    groups = {found.before: group_of(found.after) for found in analysis.caches}
    copies = {node.args[0]: group_of(node) for node in gm.graph.nodes if node.target is torch.ops.aten.copy_.default}
    assert {cache: copies[cache] for cache in groups} == groups


def test_groups_with_a_cache_come_first_and_are_named_after_their_first_node() -> None:
    _, (gm, analysis), *_ = graphs_of_generation("gpt2", "dynamic")
    by_group: dict[str, list[Node]] = {}
    for node, facts in find_groups(gm, analysis.caches).items():
        by_group.setdefault(str(facts.group), []).append(node)
        assert facts.priority == (CACHE_PRIORITY if str(facts.group).startswith("cache:") else PARTS_PRIORITY)
    assert all(group.split(":")[1] == nodes[0].name for group, nodes in by_group.items())


def test_elements_and_views_are_with_their_maker_and_other_values_are_in_no_group() -> None:
    found: list[dict[str, str | None]] = []

    def look(gm: GraphModule) -> GraphModule:
        groups = find_groups(gm, ())
        found.append({node.name: groups[node].group if node in groups else None for node in gm.graph.nodes})
        return gm

    def model(x: torch.Tensor) -> torch.Tensor:
        one, other = (x * 2).split(2)
        return one.t().sin() + other.t().cos()

    compiled, _ = capture(model, look)
    compiled(torch.randn(4, 2))
    assert {found[0][name] for name in ("mul", "split", "getitem", "getitem_1", "t", "t_1")} == {"parts:mul"}
    assert {found[0][name] for name in ("sin", "cos", "add")} == {None}
