"""Roofline model of operators on a device: their time, from their arithmetic and the bytes that they touch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import networkx as nx

from dynamo_genie.passes.placement.replication import data_sources
from dynamo_genie.passes.placement.topology import Device

_OPERATOR_S = 5e-6
"""What starting one operator takes, on any device: of the order that PyTorch's dispatcher and a launch take."""

_LOOKUPS = ("embedding", "index.Tensor", "index_select", "gather")
"""Operators that touch as much of their first argument as they return."""


def operators_s(graph: nx.DiGraph, names: Iterable[str], device: Device) -> float:
    """Return the seconds of operators one after another, each bound by its arithmetic or by the bytes it touches."""
    seconds = 0.0
    for name in names:
        node = graph.nodes[name]
        if not node["view"] and node["target"] != "getitem":
            touched = _touched_nbytes(graph, name, node)
            seconds += _OPERATOR_S + max(node["flops"] / device.flops_per_s, touched / device.bytes_per_s)
    return seconds


def _touched_nbytes(graph: nx.DiGraph, name: str, node: Mapping[str, Any]) -> int:
    """Return the bytes that an operator reads and writes (Williams et al. 2009, Roofline)."""
    made = int(node["nbytes"])
    if node["shape"] == "several":
        made = sum(int(graph.nodes[part]["nbytes"]) for part in graph.successors(name))
    if any(lookup in node["target"] for lookup in _LOOKUPS):
        return 2 * made
    return made + sum(int(graph.nodes[source]["nbytes"]) for source in data_sources(graph, name))
