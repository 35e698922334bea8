"""The semantic graph, an annotated graph as plain data: networkx can export, draw and partition it without torch.

Nodes are the values of the graph by name, in its order; edges say who reads whom, and what must run before what.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import networkx as nx
import torch
from torch.fx import GraphModule, Node

from dynamo_genie.passes.graphs.graph_view import draws, is_getitem, is_view, operator_name, result_nodes
from dynamo_genie.passes.graphs.semantics import Facts, facts_of
from dynamo_genie.passes.placement.ordering import Ordering, find_ordering
from dynamo_genie.passes.understanding.cost import find_costs
from dynamo_genie.schemas import read_schema
from dynamo_genie.torch_internals.operators import OpOverload

_NUMBERS = (bool, int, float, torch.SymInt, torch.SymFloat, torch.SymBool)


def semantic_graph(gm: GraphModule) -> nx.DiGraph:
    """Return what is known of `gm` as a directed graph.

    Node attributes: `op`, `target`, `role`, `phase`, `residency`, `group`, `priority`, `nbytes`, `flops`, `dtype`;
    `shape` ("tensor", "scalar", "several" or "nothing"); `view`, `pure`, `random`, `result` and `written` as booleans;
    `writes`, the inputs and constants whose memory the node changes.

    Edge attributes: `reads` where the value is read, its `nbytes`, `alias` where the reader is a view; `order` where
    an effect puts one node before the other. The graph attribute `together` lists pairs that must run in one program.
    """
    ordering = find_ordering(gm)
    costs = find_costs(gm)
    graph = nx.DiGraph(together=tuple((one.name, other.name) for one, other in ordering.together))
    graph.add_nodes_from(_nodes(gm, costs, ordering))
    for node in gm.graph.nodes:
        if node.op != "output":
            for source in node.all_input_nodes:
                nbytes = costs[source].nbytes or 0
                graph.add_edge(source.name, node.name, nbytes=nbytes, alias=is_view(node), reads=True, order=False)
    _add_order(graph, ordering)
    return graph


def _nodes(gm: GraphModule, costs: dict[Node, Facts], ordering: Ordering) -> Iterator[tuple[str, dict[str, Any]]]:
    results = set(result_nodes(gm))
    writes: dict[Node, list[str]] = {}
    for root, writers in ordering.written.items():
        for writer in writers:
            writes.setdefault(writer, []).append(root.name)
    for node, cost in costs.items():
        attributes = _meaning(node, cost)
        attributes.update(
            shape=_shape_of(node),
            view=is_view(node),
            pure=_is_pure(node),
            random=draws(node),
            result=node in results,
            writes=tuple(writes.get(node, ())),
            written=node in ordering.written,
        )
        yield node.name, attributes


def _meaning(node: Node, cost: Facts) -> dict[str, Any]:
    facts = facts_of(node)
    return dict(
        op=node.op,
        target=operator_name(node),
        role=facts.role.value if facts.role else "",
        phase=facts.phase.value if facts.phase else "",
        residency=facts.residency.value if facts.residency else "",
        group=facts.group or "",
        priority=facts.priority or 0,
        nbytes=cost.nbytes or 0,
        flops=cost.flops or 0,
        dtype=cost.dtype or "",
    )


def _add_order(graph: nx.DiGraph, ordering: Ordering) -> None:
    for earlier, later in ordering.before:
        if graph.has_edge(earlier.name, later.name):
            graph.edges[earlier.name, later.name]["order"] = True
        else:
            graph.add_edge(earlier.name, later.name, nbytes=0, alias=False, reads=False, order=True)


def _shape_of(node: Node) -> str:
    value = node.meta.get("val")
    if node.op == "get_attr" or isinstance(value, torch.Tensor):
        return "tensor"
    if isinstance(value, (list, tuple)):
        return "several"
    return "scalar" if isinstance(value, _NUMBERS) else "nothing"


def _is_pure(node: Node) -> bool:
    """Say whether a call gives the same result wherever and however often it runs, and does nothing else."""
    if node.op != "call_function" or draws(node):
        return False
    target = node.target
    if not isinstance(target, OpOverload):
        return _shape_of(node) == "scalar" or is_getitem(node)
    schema = read_schema(target)
    return bool(schema.results) and not schema.writes
