"""What should share a device: a KV cache with the attention that reads it, and a view with what it is a view of.

A group is advice to the partitioner, which keeps it when it places by meaning and may break it when it places blindly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from networkx.utils import UnionFind
from torch.fx import GraphModule, Node

from dynamo_genie.passes.graph_view import attention_operands
from dynamo_genie.passes.kv_cache import KVCache
from dynamo_genie.passes.ordering import is_view
from dynamo_genie.passes.semantics import Facts

aten = torch.ops.aten

CACHE_PRIORITY = 2
PART_PRIORITY = 1


def find_groups(gm: GraphModule, caches: Sequence[KVCache]) -> dict[Node, Facts]:
    """Return the group and its priority for every node that is in one.

    Groups with a cache come first. Keys and values of one attention are in one group, and so are all attentions that
    read one cache. Groups are named after their first node.

    Args:
        gm: An ATen graph.
        caches: What `find_kv_caches` found in it.
    """
    joined: UnionFind = UnionFind(gm.graph.nodes)
    cached: list[Node] = []
    for cache in caches:
        cached.extend(_join_cache(joined, gm, cache))
    for node in gm.graph.nodes:
        if node.op == "call_function" and (source := _maker(node)) is not None:
            joined.union(source, node)
    return _named(gm, joined, {joined[node] for node in cached})
