"""Co-location groups: a KV cache with the attention that reads it, and a value with its parts and views.

A group is advice to the partitioner, which keeps it when it places by meaning and may break it when it places blindly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from networkx.utils import UnionFind
from torch.fx import GraphModule, Node

from dynamo_genie.passes.graphs.graph_view import RESHAPING, is_getitem, is_view, reached
from dynamo_genie.passes.graphs.semantics import Facts
from dynamo_genie.passes.understanding.cost import flops_of
from dynamo_genie.passes.understanding.kv_cache import KVCache

aten = torch.ops.aten

CACHE_PRIORITY = 2
PARTS_PRIORITY = 1

_CARRYING: frozenset[Any] = RESHAPING | {
    aten.cat.default, aten.select.int, aten.repeat.default, aten.index.Tensor, aten.index_select.default,
    aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor,
}  # fmt: skip
"""Operators between a cache and its attention: heads are repeated, entries picked, quantised ones scaled."""


def find_groups(gm: GraphModule, caches: Sequence[KVCache]) -> dict[Node, Facts]:
    """Return the group and its priority for every node that is in one.

    Keys and values of one attention are in one group, and so are all attentions that read one cache. Groups are named
    after their first node; those with a cache have the higher priority.

    Args:
        gm: An ATen graph.
        caches: Those that were found in it.
    """
    joined: UnionFind = UnionFind(gm.graph.nodes)
    for cache in caches:
        joined.union(*_cache_members(cache))
    for node in gm.graph.nodes:
        if (maker := _maker(node)) is not None:
            joined.union(maker, node)
    return _named(gm, joined, {joined[cache.after] for cache in caches})


def _cache_members(cache: KVCache) -> list[Node]:
    """Return a cache before and after the call, what becomes of one on the way to the other, and who reads it."""
    members = dict.fromkeys((*_backwards(cache.after, until=cache.before), *cache.attentions))
    if cache.update is not None:
        members[cache.update] = None
    for node in [node for node in members if node not in cache.attentions]:
        if node.op != "placeholder":
            members.update(dict.fromkeys(_readers(node)))
    return [*members, *([cache.before] if cache.before is not None else [])]


def _backwards(node: Node, until: Node | None) -> Iterable[Node]:
    """Follow the first argument of each operator from a cache back to what it was made from."""
    yield node
    while node.target in RESHAPING and isinstance(node.args[0], Node) and node.args[0] is not until:
        node = node.args[0]
        yield node


def _readers(cache: Node) -> Iterable[Node]:
    """Return the attentions that read a cache, or products where they are spelled out, and where it is written back."""

    def ends(node: Node) -> bool:
        return node.target is aten.copy_.default or flops_of(node) != 0

    carried = reached(cache.users, lambda node: node.users if node.target in _CARRYING and not ends(node) else ())
    return filter(ends, carried)


def _maker(node: Node) -> Node | None:
    """Return the call whose result a node only names, picks from or arranges anew."""
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], Node):
        return None
    return node.args[0] if (is_getitem(node) or is_view(node)) and node.args[0].op == "call_function" else None


def _named(gm: GraphModule, joined: UnionFind, cached: set[Node]) -> dict[Node, Facts]:
    members: dict[Node, list[Node]] = {}
    for node in gm.graph.nodes:
        members.setdefault(joined[node], []).append(node)
    facts: dict[Node, Facts] = {}
    for root, nodes in members.items():
        if len(nodes) > 1:
            with_cache = root in cached
            name = f"{'cache' if with_cache else 'parts'}:{nodes[0].name}"
            priority = CACHE_PRIORITY if with_cache else PARTS_PRIORITY
            facts.update(dict.fromkeys(nodes, Facts(group=name, priority=priority)))
    return facts
