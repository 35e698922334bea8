"""The pass manager refuses, by the name of pass and node, whatever no pass may do; everything else it lets through."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.fx import GraphModule, Node, symbolic_trace
from torch.fx.passes.infra.pass_base import PassResult
from torch.fx.passes.shape_prop import ShapeProp

from dynamo_genie.passes.graphs.invariants import BrokenInvariant
from dynamo_genie.passes.graphs.pipeline import AnalysisPass, Pass, PassRecord, run_passes
from dynamo_genie.passes.graphs.semantics import META_KEY, Facts, Phase, Role, facts_of

Misdeed = Callable[[GraphModule, Node], object]
NAMES = ("x", "mul", "add", "relu")


def graph() -> GraphModule:
    gm = symbolic_trace(lambda x: torch.relu(operator.add(operator.mul(x, 2.0), 1.0)))
    ShapeProp(gm).propagate(torch.zeros(2, 3))
    for node in gm.graph.nodes:
        if node.op != "output":
            node.meta["val"] = torch.zeros(2, 3)
    return gm


def named(gm: GraphModule, name: str) -> Node:
    return next(node for node in gm.graph.nodes if node.name == name)


def replace_value(gm: GraphModule, node: Node) -> None:
    node.meta["val"] = torch.zeros(2, 3, dtype=torch.float64)


def reshape_value(gm: GraphModule, node: Node) -> None:
    node.meta["val"].resize_(6)


def drop_value(gm: GraphModule, node: Node) -> None:
    del node.meta["val"]


def rewire(gm: GraphModule, node: Node) -> None:
    node.kwargs = {"alpha": 2}


def retarget(gm: GraphModule, node: Node) -> None:
    node.target = torch.sin


def insert(gm: GraphModule, node: Node) -> None:
    with gm.graph.inserting_after(node):
        gm.graph.call_function(torch.sin, (node,))


def write_facts(gm: GraphModule, node: Node) -> None:
    node.meta[META_KEY] = Facts(role=Role.MASK)


MISDEEDS: tuple[Misdeed, ...] = (replace_value, reshape_value, drop_value, rewire, retarget, insert, write_facts)


@given(misdeed=st.sampled_from(MISDEEDS), name=st.sampled_from(NAMES), honest=st.integers(0, 2))
def test_an_analysis_that_touches_anything_is_refused_by_name(misdeed: Misdeed, name: str, honest: int) -> None:
    gm = graph()
    passes = [AnalysisPass(f"honest{i}", lambda gm: {}) for i in range(honest)]
    passes.append(AnalysisPass("culprit", lambda gm: (misdeed(gm, named(gm, name)) and {}) or {}))
    with pytest.raises(BrokenInvariant, match="'culprit'") as caught:
        run_passes(gm, passes)
    assert name in str(caught.value) or misdeed is insert


@given(name=st.sampled_from(NAMES), first=st.sampled_from(Role), second=st.sampled_from(Role))
def test_facts_are_added_and_a_contradiction_is_refused_by_name(name: str, first: Role, second: Role) -> None:
    gm = graph()
    say = lambda role: lambda gm: {named(gm, name): Facts(role=role)}
    passes = (AnalysisPass("first", say(first)), AnalysisPass("second", say(second)))
    if first is second:
        records = run_passes(gm, passes).records
        assert [record.modified for record in records] == [True, False]
    else:
        with pytest.raises(BrokenInvariant, match=f"'second' contradicts an earlier one: {name}: role is"):
            run_passes(gm, passes)
    assert facts_of(named(gm, name)).role is first


def test_a_rewrite_that_leaves_a_broken_graph_is_refused() -> None:
    def use_before_definition(gm: GraphModule) -> PassResult:
        named(gm, "mul").args = (named(gm, "relu"), 2.0)
        return PassResult(gm, True)

    with pytest.raises(BrokenInvariant, match="pass 'culprit' left a graph that is not well-formed"):
        run_passes(graph(), [Pass("culprit", use_before_definition)])


def test_a_rewrite_may_replace_nodes_but_not_redescribe_those_that_stay() -> None:
    def redescribe(gm: GraphModule) -> PassResult:
        replace_value(gm, named(gm, "add"))
        return PassResult(gm, True)

    with pytest.raises(BrokenInvariant, match=r"pass 'culprit' changed meta\['val'\] of 'add'"):
        run_passes(graph(), [Pass("culprit", redescribe)])


def test_rewrites_and_analyses_are_observed_in_order_with_their_times() -> None:
    def sin_for_relu(gm: GraphModule) -> PassResult:
        named(gm, "relu").target = torch.sin
        return PassResult(gm, True)

    seen: list[PassRecord] = []
    passes = (
        Pass("rewrite", sin_for_relu),
        AnalysisPass("look", lambda gm: {node: Facts(phase=Phase.OTHER) for node in gm.graph.nodes}),
        AnalysisPass("again", lambda gm: {}),
    )
    result = run_passes(graph(), passes, lambda record, gm: seen.append(record))
    assert tuple(seen) == result.records
    assert [(record.name, record.modified) for record in seen] == [("rewrite", True), ("look", True), ("again", False)]
    assert seen[0].operators == (("relu", -1), ("sin", 1))
    assert all(record.duration_s > 0 for record in seen)
