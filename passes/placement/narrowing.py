"""Moves light work across the borders between units, so that few bytes pass where a graph may be cut.

Before, a layer's first norm runs behind the last product of the layer before it, and a cut there sends two tensors::

    unit 1: linear, add, layer_norm | add and layer_norm cross | unit 2: linear_1, ..., add_1

After, one::

    unit 1: linear, add             | add crosses              | unit 2: layer_norm, linear_1, ..., add_1
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import networkx as nx

from dynamo_genie.passes.placement.replication import data_sources

_LOOK_AHEAD = 6
"""How many blocks may move at once: a norm spelled out is a square, a mean, a root and two products."""


def narrow_borders(graph: nx.DiGraph, light: Sequence[tuple[str, ...]], unit_of: dict[str, int]) -> None:
    """Move light blocks to the first unit that reads them, in `unit_of`, where not more bytes pass for it.

    Args:
        graph: A semantic graph.
        light: Blocks that may move, in an order in which they can run.
        unit_of: The unit of each call; edges go to higher numbers only, and still do so afterwards.
    """
    block_of = {name: block for block in light for name in block}
    for block in reversed(light):
        here = unit_of[block[0]]
        target = _first_reader(graph, block, unit_of)
        if target is not None and target > here:
            unit_of.update(dict.fromkeys(_worth_moving(graph, block, here, unit_of, block_of), target))


def _first_reader(graph: nx.DiGraph, names: Sequence[str], unit_of: Mapping[str, int]) -> int | None:
    inside = set(names)
    readers = (r for name in names for r in graph.successors(name) if r not in inside and r in unit_of)
    return min((unit_of[reader] for reader in readers), default=None)


def _worth_moving(
    graph: nx.DiGraph,
    block: Sequence[str],
    here: int,
    unit_of: Mapping[str, int],
    block_of: Mapping[str, tuple[str, ...]],
) -> list[str]:
    """Return a block and, where it takes them, those before it that nothing else reads; nothing if it does not pay."""
    moving = list(block)
    for _ in range(_LOOK_AHEAD):
        kept_back = _kept_back(graph, moving, here, unit_of)
        if sum(kept_back.values()) <= _handed_on(graph, moving):
            return moving
        with_it = next((s for s in kept_back if s in block_of and _read_only_by(graph, block_of[s], moving)), None)
        if with_it is None or unit_of[with_it] != here:
            return []
        moving.extend(block_of[with_it])
    return []


def _handed_on(graph: nx.DiGraph, moving: Sequence[str]) -> int:
    """Return the bytes that pass the border while these calls are before it."""
    inside = set(moving)
    return sum(graph.nodes[name]["nbytes"] for name in moving if any(r not in inside for r in graph.successors(name)))


def _kept_back(graph: nx.DiGraph, moving: Sequence[str], here: int, unit_of: Mapping[str, int]) -> dict[str, int]:
    """Return what would pass the border, and does not now, were these calls behind it; with its bytes."""
    inside = set(moving)
    sources = dict.fromkeys(s for name in moving for s in data_sources(graph, name) if s in unit_of and s not in inside)
    return {
        source: graph.nodes[source]["nbytes"]
        for source in sources
        if all(unit_of.get(reader, here) <= here for reader in graph.successors(source))
    }


def _read_only_by(graph: nx.DiGraph, block: Sequence[str], moving: Sequence[str]) -> bool:
    inside = {*block, *moving}
    return all(reader in inside for name in block for reader in graph.successors(name))
