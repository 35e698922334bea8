"""Contraction of a graph to units, nodes that are placed as a whole: hundreds where a graph has thousands of nodes.

What must stay together is joined first (numbers and tuples with their readers, what shares written memory, and
co-location groups where they are respected). Then every operator that does little joins the latest of those it reads
from, so that a unit is one product of matrices, or one attention, and what follows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import networkx as nx
from networkx.utils import UnionFind

from dynamo_genie.passes.graphs.semantics import Residency
from dynamo_genie.passes.placement.narrowing import narrow_borders
from dynamo_genie.passes.placement.replication import data_sources

Units = tuple[tuple[str, ...], ...]
"""Names of nodes, unit by unit in an order in which they can run; inside a unit in graph order."""


def contract(
    graph: nx.DiGraph, replicable: frozenset[str], pins: Mapping[str, frozenset[str]], *, grouped: bool
) -> Units:
    """Return the units of a semantic graph; what is replicable belongs to none.

    Args:
        pins: The devices to which a call is bound; calls whose pins contradict come into one unit only if they must.
        grouped: Whether the nodes of a co-location group make one unit, and units hand on as few bytes as they can.
    """
    calls = [name for name, node in graph.nodes.items() if node["op"] == "call_function" and name not in replicable]
    blocks = _blocks(graph, calls, pins, grouped)
    heavy_nbytes = _heavy_nbytes(graph)
    light = [block for block in blocks if not _is_heavy(graph, block, heavy_nbytes)]
    unit_of = _join_light(graph, blocks, frozenset(light), pins)
    if grouped:
        narrow_borders(graph, [block for block in light if not any(name in pins for name in block)], unit_of)
    units: list[list[str]] = [[] for _ in range(max(unit_of.values(), default=-1) + 1)]
    for name in calls:
        units[unit_of[name]].append(name)
    return tuple(tuple(unit) for unit in units)


def _blocks(graph: nx.DiGraph, calls: list[str], pins: Mapping[str, frozenset[str]], grouped: bool) -> Units:
    """Return what cannot be taken apart, in an order in which it can run."""
    joined = UnionFind(calls)
    for one, other in _bonds(graph, calls):
        joined.union(one, other)
    if grouped:
        _join_groups(graph, calls, pins, joined)
    quotient = nx.DiGraph()
    quotient.add_nodes_from(joined[name] for name in calls)
    inside = set(calls)
    for one, other in graph.edges:
        if one in inside and other in inside and joined[one] != joined[other]:
            quotient.add_edge(joined[one], joined[other])
    # Blocks that wait for one another can only run as one.
    condensed = nx.condensation(quotient)
    block_of = {name: condensed.graph["mapping"][joined[name]] for name in calls}
    members: dict[int, list[str]] = {}
    for name in calls:
        members.setdefault(block_of[name], []).append(name)
    place = {block: position for position, block in enumerate(members)}
    return tuple(tuple(members[b]) for b in nx.lexicographical_topological_sort(condensed, key=place.__getitem__))


def _bonds(graph: nx.DiGraph, calls: list[str]) -> Iterator[tuple[str, str]]:
    """Yield pairs of calls that must be in one unit."""
    inside = set(calls)
    yield from ((one, other) for one, other in graph.graph["together"] if one in inside and other in inside)
    for name in calls:
        if graph.nodes[name]["shape"] in ("several", "scalar"):  # neither can cross
            reads = graph.edges(name, data="reads")
            yield from ((name, reader) for _, reader, is_read in reads if is_read and reader in inside)


def _join_groups(graph: nx.DiGraph, calls: list[str], pins: Mapping[str, frozenset[str]], joined: UnionFind) -> None:
    """Join the calls of each group, but for those that are bound to other devices: a group is advice, a pin is not."""
    bound: dict[str, frozenset[str]] = {}
    for name in calls:
        if name in pins:
            bound[joined[name]] = bound.get(joined[name], pins[name]) & pins[name]
    leaders: dict[str, str] = {}
    for name in calls:
        if group := graph.nodes[name]["group"]:
            roots = {joined[name]: None, joined[leaders.setdefault(group, name)]: None}
            both = [bound[root] for root in roots if root in bound]
            if not both or frozenset.intersection(*both):
                joined.union(*roots)
                if both:
                    bound[joined[name]] = frozenset.intersection(*both)


def _join_light(
    graph: nx.DiGraph, blocks: Units, light: frozenset[tuple[str, ...]], pins: Mapping[str, frozenset[str]]
) -> dict[str, int]:
    """Join light blocks to the latest unit that they read from, else to the first that reads them.

    Units are numbered as they are made and edges go to higher numbers only, so no circle can arise.
    """
    unit_of: dict[str, int] = {}
    waiting: dict[str, None] = {}
    bound: list[frozenset[str] | None] = []
    for block in blocks:
        latest = max(_units_before(graph, block, unit_of, waiting), default=None)
        own = _common([pins[name] for name in block if name in pins])
        if block not in light or (own is not None and (latest is None or not _agree(own, bound[latest]))):
            _assign(graph, block, len(bound), unit_of, waiting)
            bound.append(own)
        elif latest is None:
            waiting.update(dict.fromkeys(block))
        else:
            _assign(graph, block, latest, unit_of, waiting)
            bound[latest] = _common([each for each in (own, bound[latest]) if each is not None])
    for name in waiting:  # no unit reads it: a check on an input, or a graph without any product
        unit_of[name] = max((unit_of.get(source, 0) for source in graph.predecessors(name)), default=0)
    return unit_of


def _common(pins: list[frozenset[str]]) -> frozenset[str] | None:
    return frozenset.intersection(*pins) if pins else None


def _agree(one: frozenset[str], other: frozenset[str] | None) -> bool:
    return other is None or bool(one & other)


def _units_before(
    graph: nx.DiGraph, block: Iterable[str], unit_of: dict[str, int], waiting: dict[str, None]
) -> Iterator[int]:
    """Yield the units that a block reads from, also through nodes that wait and would come into its unit."""
    pending, seen = list(block), set(block)
    while pending:
        for source in graph.predecessors(pending.pop()):
            if source in unit_of:
                yield unit_of[source]
            elif source in waiting and source not in seen:
                seen.add(source)
                pending.append(source)


def _assign(
    graph: nx.DiGraph, block: Iterable[str], unit: int, unit_of: dict[str, int], waiting: dict[str, None]
) -> None:
    """Put a block into a unit, and with it the light nodes before it that waited for their first reader."""
    pending = list(block)
    while pending:
        name = pending.pop()
        if name not in unit_of:
            unit_of[name] = unit
            waiting.pop(name, None)
            pending.extend(source for source in graph.predecessors(name) if source in waiting)


def _heavy_nbytes(graph: nx.DiGraph) -> int:
    weights = sum(node["nbytes"] for node in graph.nodes.values() if is_weight(node))
    return max(int(weights) // 100, 1)


def _is_heavy(graph: nx.DiGraph, block: Iterable[str], heavy_nbytes: int) -> bool:
    """Say whether a block multiplies matrices, or reads a weight that is a good part of all."""
    return any(
        graph.nodes[name]["flops"] > 0
        or any(
            is_weight(graph.nodes[source]) and graph.nodes[source]["nbytes"] >= heavy_nbytes
            for source in data_sources(graph, name)
        )
        for name in block
    )


def is_weight(node: dict[str, object]) -> bool:
    """Say whether a node of a semantic graph is an input that stays in the daemon from call to call."""
    return node["op"] == "placeholder" and node["residency"] == Residency.PERSISTENT.value
