"""Moves light work across the borders between units, so that few bytes pass where a graph may be cut.

Before, a layer's first norm runs behind the last product of the layer before it, and a cut there sends two tensors::

    unit 1: linear, add, layer_norm | add and layer_norm cross | unit 2: linear_1, ..., add_1

After, one::

    unit 1: linear, add             | add crosses              | unit 2: layer_norm, linear_1, ..., add_1
"""

from __future__ import annotations

from collections.abc import Sequence

import networkx as nx

from dynamo_genie.passes.replication import data_sources


def narrow_borders(graph: nx.DiGraph, light: Sequence[tuple[str, ...]], unit_of: dict[str, int]) -> None:
    """Move light blocks to the first unit that reads them, in `unit_of`, where not more bytes pass for it.

    Args:
        graph: A semantic graph.
        light: Blocks that may move, in an order in which they can run.
        unit_of: The unit of each call; edges go to higher numbers only, and still do so afterwards.
    """
    for block in reversed(light):
        here = unit_of[block[0]]
        inside = set(block)
        readers = [unit_of[r] for name in block for r in graph.successors(name) if r not in inside and r in unit_of]
        if readers and min(readers) > here and _kept_back(graph, block, here, unit_of) <= _handed_on(graph, block):
            unit_of.update(dict.fromkeys(block, min(readers)))


def _handed_on(graph: nx.DiGraph, block: Sequence[str]) -> int:
    """Return the bytes that pass the border while the block is before it."""
    inside = set(block)
    return sum(graph.nodes[name]["nbytes"] for name in block if any(r not in inside for r in graph.successors(name)))


def _kept_back(graph: nx.DiGraph, block: Sequence[str], here: int, unit_of: dict[str, int]) -> int:
    """Return the bytes that would pass the border, and do not now, were the block behind it."""
    inside = set(block)
    sources = dict.fromkeys(s for name in block for s in data_sources(graph, name) if s in unit_of and s not in inside)
    return sum(
        graph.nodes[source]["nbytes"]
        for source in sources
        if all(unit_of.get(reader, here) <= here for reader in graph.successors(source))
    )
