"""The text of a graph: Python in form, one line a node, with the facts beside it."""

from __future__ import annotations

import ast
import json

import torch
from torch import nn

from dynamo_genie.passes.graphs.annotated_text import annotated_records, annotated_text
from dynamo_genie.passes.graphs.semantics import Facts, Role, annotate
from tests.captured import capture


def graph() -> torch.fx.GraphModule:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.GELU())
    run, captured = capture(lambda x: (model(x).clamp(max=float("inf")).to(torch.float64), x.sum()))
    with torch.no_grad():
        run(torch.ones(2, 4))
    return captured.forward[0]


def test_every_node_is_one_line_of_python() -> None:
    gm = graph()
    text = annotated_text(gm, "00_captured")
    statements = ast.parse(text).body
    assert len(statements) == len(gm.graph.nodes)
    assert [s.targets[0].id for s in statements if isinstance(s, ast.Assign)] == [  # type: ignore[attr-defined]
        node.name for node in gm.graph.nodes if node.op != "output"
    ]


def test_facts_stand_beside_their_node_and_change_no_other_line() -> None:
    gm = graph()
    before = annotated_text(gm, "graph").splitlines()
    node = gm.graph.find_nodes(op="placeholder")[0]
    annotate({node: Facts(role=Role.WEIGHT, group="layer 0", nbytes=4096, evidence=("a parameter",))})
    after = annotated_text(gm, "graph").splitlines()
    [changed] = [new for old, new in zip(before, after, strict=True) if old != new]
    assert changed.endswith("| weight | group=layer 0 | 4,096 bytes | a parameter")


def test_shapes_and_dtypes_stand_beside_their_node() -> None:
    assert "  # f64[2, 3]" in annotated_text(graph(), "graph")


def test_records_are_plain_json_with_the_same_facts() -> None:
    gm = graph()
    node = gm.graph.find_nodes(op="placeholder")[0]
    annotate({node: Facts(role=Role.WEIGHT, nbytes=48)})
    records = json.loads(json.dumps(annotated_records(gm), allow_nan=False))
    assert [record["name"] for record in records] == [node.name for node in gm.graph.nodes]
    assert records[0]["facts"] == {"role": "weight", "nbytes": 48}


def test_two_captures_of_one_function_give_one_text() -> None:
    assert annotated_text(graph(), "graph") == annotated_text(graph(), "graph")
