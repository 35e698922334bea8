"""Phases: daemons and client take turns, and as few turns as data and effects allow.

A call belongs to the first turn of its side after all that it waits for; what daemons run then moves to the latest turn
that none of its readers precedes, so that nothing is made, and kept, long before it is wanted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise

from torch.fx import GraphModule, Node

from dynamo_genie.passes.cutting.borders import Borders, is_opaque
from dynamo_genie.passes.graphs.graph_view import is_getitem
from dynamo_genie.passes.graphs.portable_operators import draws_random_numbers
from dynamo_genie.passes.placement.ordering import Ordering

Before = Mapping[Node, Sequence[Node]]
"""For each call, those that must run before it."""


def find_phases(gm: GraphModule, client: frozenset[Node], borders: Borders, ordering: Ordering) -> dict[Node, int]:
    """Return the turn of each call that has one maker; turns of the client and of daemons alternate."""
    calls = [
        node
        for node in gm.graph.nodes
        if node.op == "call_function" and not borders.is_made_by_readers(node, client) and not borders.is_told(node)
    ]
    before = _before(calls, client, borders, ordering)
    by_start = [_earliest(calls, client, before, start) for start in (False, True)]
    phases = min(by_start, key=lambda found: len(set(found.values())))
    _delay(calls, client, before, phases)
    return phases


def _before(calls: list[Node], client: frozenset[Node], borders: Borders, ordering: Ordering) -> Before:
    own = set(calls)
    before: dict[Node, list[Node]] = {
        node: [given for given in borders.needs([node], client)[1] if given in own] for node in calls
    }
    for earlier, later in (*ordering.before, *pairwise(_effects(calls, client))):
        if earlier in own and later in own:
            before[later].append(earlier)
    return before


def _effects(calls: list[Node], client: frozenset[Node]) -> list[Node]:
    """Return the calls that keep the order of the graph: what draws random numbers, and what may."""
    return [node for node in calls if draws_random_numbers(node.target) or (node in client and is_opaque(node))]


def _earliest(calls: list[Node], client: frozenset[Node], before: Before, client_first: bool) -> dict[Node, int]:
    phases: dict[Node, int] = {}
    for node in calls:
        here = node in client
        first = 0 if here == client_first else 1
        phases[node] = max([first, *(phases[other] + ((other in client) != here) for other in before[node])])
    return phases


def _delay(calls: list[Node], client: frozenset[Node], before: Before, phases: dict[Node, int]) -> None:
    after: dict[Node, list[Node]] = defaultdict(list)
    for node, others in before.items():
        for other in others:
            after[other].append(node)
    for node in reversed(calls):
        if node in client or not after[node]:
            continue
        parts = [other for other in after[node] if is_getitem(other) and other not in client]
        phases[node] = min(phases[other] - (other in client) for other in after[node])
        phases.update(dict.fromkeys(parts, phases[node]))  # several results come apart where they were made
