"""A graph cut around what no daemon runs: partitions of daemons and of the client, in turns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from torch.fx import GraphModule, Node

from dynamo_genie.passes.cutting.borders import Borders, is_number, is_tensor
from dynamo_genie.passes.cutting.phases import find_phases
from dynamo_genie.passes.cutting.sides import client_calls
from dynamo_genie.passes.graphs.graph_view import result_nodes
from dynamo_genie.passes.placement.ordering import Ordering, find_ordering
from dynamo_genie.passes.placement.plan import Partition
from dynamo_genie.passes.placement.topology import CLIENT

DAEMONS = "daemons"
"""Stands for the device of a partition that is not on the client: one daemon, or several among which it is placed."""


def cut(gm: GraphModule, unrunnable: Collection[Node], local: Collection[Node]) -> tuple[Partition, ...]:
    """Return partitions on `CLIENT` and on `DAEMONS` by turns, as few as there can be.

    Inputs of a partition that are sizes (`Borders.is_told`) are no one's outputs: a call's arguments tell them.

    Args:
        gm: A graph in which writes have not yet been moved to where values are made.
        unrunnable: The calls that no daemon runs. What reads or makes a value that cannot be sent is among them.
        local: The placeholders of tensors that the client has: it reads, views and writes them without a daemon.
    """
    borders, ordering = Borders(gm, local), find_ordering(gm)
    kept = set(unrunnable)
    while True:
        client = client_calls(gm, kept, borders)
        phases = find_phases(gm, client, borders, ordering)
        more = _stranded(client, phases, borders, ordering) - client
        if not more:
            return _partitions(gm, client, phases, borders)
        kept |= more


def _stranded(client: frozenset[Node], phases: dict[Node, int], borders: Borders, ordering: Ordering) -> set[Node]:
    """Return calls that daemons cannot have: another turn reads their number or tuple, or memory that they change."""
    found: set[Node] = set()
    for node, phase in phases.items():
        for given in borders.needs([node], client)[1]:
            if given in phases and phases[given] != phase and not is_tensor(given):
                found.add(given)
    for one, other in ordering.together:
        if one in phases and other in phases and phases[one] != phases[other]:
            found.update((one, other))
    return found


def _partitions(
    gm: GraphModule, client: frozenset[Node], phases: Mapping[Node, int], borders: Borders
) -> tuple[Partition, ...]:
    turns = sorted(set(phases.values()))
    own: dict[int, dict[Node, None]] = {turn: {} for turn in turns}
    for node, turn in phases.items():
        own[turn][node] = None
    sides = {turn: CLIENT if any(node in client for node in own[turn]) else DAEMONS for turn in turns}
    results = _makers_of_results(gm, client, phases, borders, own)
    for node, turn in results.items():
        own[turn][node] = None
    needs = {turn: borders.needs(own[turn], client) for turn in turns}
    wanted: dict[int, set[Node]] = defaultdict(set)
    for node, turn in results.items():
        wanted[turn].add(node)
    for turn in turns:
        for node in needs[turn][1]:
            if node in phases and phases[node] != turn:
                wanted[phases[node]].add(node)
    place = {node: position for position, node in enumerate(gm.graph.nodes)}
    return tuple(
        Partition(
            index=index,
            device=sides[turn],
            stage=index,
            nodes=_names(place, (node for node in {**own[turn], **needs[turn][0]} if node.op == "call_function")),
            inputs=_names(place, (node for node in needs[turn][1] if node not in own[turn])),
            outputs=_names(place, wanted[turn]),
        )
        for index, turn in enumerate(turns)
    )


def _makers_of_results(
    gm: GraphModule,
    client: frozenset[Node],
    phases: Mapping[Node, int],
    borders: Borders,
    own: Mapping[int, Collection[Node]],
) -> dict[Node, int]:
    """Return the turn in which each result is made that is neither an input nor known from a call's arguments.

    A view is made where its memory is; one of an input, or a constant, where it is made anyway: it may be a weight's.
    """
    needs = {turn: borders.needs(nodes, client) for turn, nodes in own.items()}
    turns = sorted(own, key=lambda turn: any(node in client for node in own[turn]))  # daemons first
    found: dict[Node, int] = {}
    for node in result_nodes(gm):
        if node.op == "placeholder" or borders.is_told(node) or (is_number(node) and node not in client):
            continue
        base = borders.base(node)
        known = phases.get(node, phases.get(base))
        having = (turn for turn in turns if node in needs[turn][0] or base in needs[turn][1])
        found[node] = next(having, turns[0]) if known is None else known
    return found


def _names(place: Mapping[Node, int], nodes: Iterable[Node]) -> tuple[str, ...]:
    return tuple(node.name for node in sorted(nodes, key=place.__getitem__))
