"""Splits a graph into one standalone graph a partition, as a plan says. Names and metadata stay what they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from dynamo_genie.passes.placement.plan import Partition


def split(gm: GraphModule, partitions: Sequence[Partition]) -> tuple[GraphModule, ...]:
    """Return a graph for each of the partitions of `gm`, in their order.

    Its placeholders are the partition's inputs and its result is the tuple of the partition's outputs, both in order::

        graph():  x -> linear -> relu -> linear_1 -> output
        part 0:   x -> linear -> relu -> output (relu,)
        part 1:   relu -> linear_1 -> output (linear_1,)
    """
    by_name = {node.name: node for node in gm.graph.nodes}
    return tuple(_extract(gm, by_name, partition) for partition in partitions)


def _extract(gm: GraphModule, by_name: Mapping[str, Node], partition: Partition) -> GraphModule:
    graph = Graph()
    copies: dict[Node, Node] = {}
    for name in partition.inputs:
        source = by_name[name]
        copies[source] = _as_placeholder(graph, source)
    for name in partition.nodes:
        for source in by_name[name].all_input_nodes:
            _copy_constant(graph, source, copies)
        copies[by_name[name]] = _copy(graph, by_name[name], copies)
    for name in partition.outputs:
        _copy_constant(graph, by_name[name], copies)
    graph.output(tuple(copies[by_name[name]] for name in partition.outputs))
    graph.lint()
    return GraphModule(_held_by(gm, graph), graph)


def _as_placeholder(graph: Graph, source: Node) -> Node:
    node = graph.create_node("placeholder", source.name, name=source.name)
    node.meta = dict(source.meta)
    return node


def _copy(graph: Graph, source: Node, copies: Mapping[Node, Node]) -> Node:
    node = graph.create_node(
        source.op,
        source.target,
        torch.fx.map_arg(source.args, copies.__getitem__),
        torch.fx.map_arg(source.kwargs, copies.__getitem__),
        name=source.name,
    )
    node.meta = dict(source.meta)
    return node


def _copy_constant(graph: Graph, source: Node, copies: dict[Node, Node]) -> None:
    """Copy a constant of the graph, if `source` is one, before its first reader."""
    if source.op == "get_attr" and source not in copies:
        copies[source] = _copy(graph, source, copies)


def _held_by(gm: GraphModule, graph: Graph) -> dict[str, Any]:
    """Return the constants that a graph names, for its own module."""
    return {str(node.target): attrgetter(str(node.target))(gm) for node in graph.find_nodes(op="get_attr")}
