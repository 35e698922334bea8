"""Latent KV caches: keys and values are projected from smaller vectors, and some models cache those instead.

::

    %latent  = cat([%past, %new], 2)          what the model keeps
    %both    = aten.mm.default(%latent, %weight)
    %key, %value = split(%both)

Hidden states are projected to keys and values too. What tells them apart is the query: a hidden state is where it comes
from as well, a latent is not, and was itself projected from that hidden state.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch.fx import Node

from dynamo_genie.passes.understanding.attention import Attention
from dynamo_genie.passes.understanding.axes import axis_before
from dynamo_genie.passes.understanding.cache_update import Entries
from dynamo_genie.passes.understanding.lineage import PRODUCTS, carried_from, projected, roots_of

_NEAR = 96
"""A latent stands this many nodes before the keys at most; so a walk never strays into the rest of a model."""


def latent_entries(attention: Attention) -> tuple[Entries, Entries]:
    """Return what keys and values are projected from, as far as it was made from what the queries were made from."""
    query = _through_one_projection(attention.query, None, frozenset())
    origins = roots_of(attention.query_history) | roots_of(query)
    sides = ((attention.key, attention.key_axis), (attention.value, attention.value_axis))
    keys, values = (_through_one_projection(node, axis, origins) for node, axis in sides)
    return _latents(keys, query, origins), _latents(values, query, origins)


def _latents(entries: Entries, query: Entries, origins: frozenset[Node]) -> Entries:
    if not roots_of(entries) & origins:
        return {}
    return {node: axis for node, axis in entries.items() if node not in query}


def _through_one_projection(node: Node, axis: int | None, stop: frozenset[Node]) -> Entries:
    """Return what a node is carried from, on both sides of one projection; nothing where there is none."""
    found: dict[Node, int | None] = {node: axis}
    beyond: set[Node] = set()
    pending = [node]
    for current in pending:
        if len(found) > _NEAR:
            break
        for source, is_beyond in _steps(current, current in beyond):
            if source not in found and source not in stop:
                found[source] = axis_before(current, source, found[current])
                pending.append(source)
                if is_beyond:
                    beyond.add(source)
    return found if beyond else {}


def _steps(node: Node, is_beyond: bool) -> Iterator[tuple[Node, bool]]:
    yield from ((source, is_beyond) for source in carried_from(node))
    if not is_beyond and node.target in PRODUCTS:
        yield from ((source, True) for source in projected(node))
