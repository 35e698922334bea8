"""The graph that is partitioned says in plain data what values are, who reads them and what comes before what."""

import json

import networkx as nx
import torch
from torch import nn
from torch.fx import GraphModule

from dynamo_genie.passes.placement.semantic_graph import semantic_graph
from tests.captured import capture
from tests.integration.models import make_model, token_prompt
from tests.placed import prepare


def graph_of(function: object, *inputs: torch.Tensor) -> nx.DiGraph:
    kept: list[nx.DiGraph] = []

    def look(gm: GraphModule) -> GraphModule:
        kept.append(semantic_graph(prepare(gm)[0]))
        return gm

    compiled, _ = capture(function, look)
    with torch.no_grad():
        compiled(*inputs)
    return kept[0]


def test_nodes_carry_what_the_passes_found() -> None:
    graph = graph_of(nn.Linear(4, 3), torch.randn(2, 4))
    product = next(node for node in graph.nodes.values() if node["flops"])
    assert (product["nbytes"], product["flops"], product["dtype"], product["result"]) == (24, 48, "float32", True)
    weights = [node for node in graph.nodes.values() if node["residency"] == "persistent"]
    assert sorted((node["role"], node["nbytes"]) for node in weights) == [("weight", 12), ("weight", 48)]


def test_edges_say_how_many_bytes_are_read_and_whether_the_reader_is_a_view() -> None:
    graph = graph_of(lambda x: x.sin().t().cos(), torch.randn(2, 4))
    assert graph.edges["sin", "t"] == dict(nbytes=32, alias=True, reads=True, order=False)
    assert graph.edges["t", "cos"] == dict(nbytes=32, alias=False, reads=True, order=False)


def test_readers_come_before_the_writer_and_random_draws_in_their_order() -> None:
    def model(state: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        noise, more = torch.rand_like(x), torch.rand_like(x)
        seen = state.view(-1).sin()
        state.copy_(x)
        return noise + more + seen.view_as(x)

    graph = graph_of(model, torch.randn(3, 2), torch.randn(3, 2))
    (writer,) = (name for name, node in graph.nodes.items() if node["writes"])
    assert graph.edges["sin", writer]["order"] and not graph.edges["sin", writer]["reads"]
    first, second = (name for name, node in graph.nodes.items() if node["random"])
    assert graph.edges[first, second]["order"]
    assert not graph.nodes[first]["pure"] and not graph.nodes[writer]["pure"]


def test_shapes_tell_numbers_and_tuples_from_tensors() -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        low, _ = x.split(1, -1)
        return low * (x.shape[0] * 2)

    kept: list[nx.DiGraph] = []
    compiled, _ = capture(model, lambda gm: kept.append(semantic_graph(gm)) or gm, dynamic=True)
    compiled(torch.randn(3, 2))
    shapes = {node["target"]: node["shape"] for node in kept[0].nodes.values()}
    assert shapes["split.Tensor"] == "several" and shapes["getitem"] == "tensor" and shapes["mul"] == "scalar"


def test_it_is_plain_data_and_has_no_circle() -> None:
    kept: list[nx.DiGraph] = []
    model = make_model("gpt2")
    model.forward, _ = capture(model.forward, lambda gm: kept.append(semantic_graph(prepare(gm)[0])) or gm)
    with torch.no_grad():
        model(**token_prompt().inputs)
    graph = kept[0]
    assert nx.is_directed_acyclic_graph(graph)
    assert {node["role"] for node in graph.nodes.values()} >= {"weight", "kv_cache", "activation"}
    again = nx.node_link_graph(json.loads(json.dumps(nx.node_link_data(graph, edges="edges"))), edges="edges")
    assert again.nodes.keys() == graph.nodes.keys() and again.edges.keys() == graph.edges.keys()
