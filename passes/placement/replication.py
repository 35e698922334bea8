"""Replication of cheap values, which are made anew wherever they are read: numbers, masks, positions, views."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import networkx as nx

from dynamo_genie.passes.graphs.semantics import Residency, Role

_SMALL_INPUT_NBYTES = 1 << 20
_SMALL_WEIGHT_NBYTES = 2 << 10  # a table of frequencies or of relative positions, not a layer's matrix
_SMALL_RESULT_NBYTES = 16 << 20
_FEW_FLOPS = 1 << 20


def find_replicable(graph: nx.DiGraph, homes: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """Return the calls and constants that every partition which reads them makes for itself.

    Args:
        graph: As `semantic_graph` makes it.
        homes: Where each input already is; those absent come from the client.
    """
    cheap: set[str] = set()
    arranged: set[str] = set()
    for name, node in graph.nodes.items():
        sources = data_sources(graph, name)
        if node["op"] != "call_function":
            (cheap if _is_small_input(name, node, homes) else arranged).add(name)
        elif not node["pure"] or not (graph.out_degree(name) or node["result"]):
            continue
        elif cheap.issuperset(sources) and (node["shape"] == "scalar" or _is_little_work(node)):
            cheap.add(name)
        elif (node["view"] or node["shape"] == "scalar") and all(s in cheap or s in arranged for s in sources):
            arranged.add(name)
    return frozenset(name for name in cheap | arranged if graph.nodes[name]["op"] != "placeholder")


def with_sources(
    graph: nx.DiGraph, names: Iterable[str], replicable: frozenset[str]
) -> tuple[dict[str, None], dict[str, None]]:
    """Return what must be made anew, and the inputs that must be at hand, so that `names` can run."""
    made: dict[str, None] = {}
    inputs: dict[str, None] = {}
    pending = [source for name in names for source in data_sources(graph, name)]
    while pending:
        name = pending.pop()
        if graph.nodes[name]["op"] == "placeholder":
            inputs[name] = None
        elif name in replicable and name not in made:
            made[name] = None
            pending.extend(data_sources(graph, name))
    return made, inputs


def data_sources(graph: nx.DiGraph, name: str) -> list[str]:
    """Return what a node reads, without what must merely run before it."""
    return [source for source, edge in graph.pred[name].items() if edge["reads"]]


def _is_small_input(name: str, node: Mapping[str, Any], homes: Mapping[str, frozenset[str]]) -> bool:
    if node["shape"] == "scalar":
        return True
    if node["written"] or node["nbytes"] > _SMALL_INPUT_NBYTES:
        return False
    if node["op"] == "get_attr":
        return True
    if node["residency"] == Residency.PERSISTENT.value:
        return bool(node["role"] == Role.BUFFER.value or node["nbytes"] <= _SMALL_WEIGHT_NBYTES)
    return name not in homes


def _is_little_work(node: Mapping[str, Any]) -> bool:
    return bool(node["flops"] <= _FEW_FLOPS and node["nbytes"] <= _SMALL_RESULT_NBYTES)
