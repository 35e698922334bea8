"""Finds the KV caches of a graph by following what attentions read. Looks, and changes nothing.

Three shapes are known::

    grown     placeholder -> cat([past, new]) -> attention, and the cat is a result of the graph
    written   placeholder -> index_copy / index_put / slice_scatter -> attention, and copy_ back into the placeholder
    born      a result of the graph that an attention reads as key or value, made from no earlier cache (prefill)
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch.fx import GraphModule, Node

from dynamo_genie.passes.graph_view import RESHAPING, attention_operands, origin, result_nodes
from dynamo_genie.passes.semantics import Facts, Residency, Role, nbytes_of

aten = torch.ops.aten

_WRITES: frozenset[Any] = frozenset(
    {
        aten.index_copy.default, aten.index_put.default, aten.slice_scatter.default, aten.select_scatter.default,
        aten.scatter.src, aten.index_copy_.default, aten.index_put_.default,
    }
)  # fmt: skip


class CacheKind(Enum):
    """How a cache changes in one call."""

    GROWN = "grown"
    WRITTEN = "written"
    BORN = "born"


@dataclass(frozen=True)
class KVCache:
    """One cache: the input that holds it before the call, the value that holds it after, and why we think so."""

    kind: CacheKind
    before: Node | None
    after: Node
    evidence: tuple[str, ...]


def find_kv_caches(gm: GraphModule, n_results: int | None = None) -> tuple[KVCache, ...]:
    """Return the KV caches of a graph.

    Args:
        gm: An ATen graph.
        n_results: How many of its results the user sees; the rest are saved for backward, and no caches.
    """
    results = set(result_nodes(gm, n_results))
    written_back = {node.args[1]: node.args[0] for node in gm.graph.nodes if node.target is aten.copy_.default}
    caches: dict[Node, KVCache] = {}
    for attention, operand in attention_operands(gm):
        for node in _history(operand):
            if node not in caches and (cache := _as_cache(node, attention, results, written_back)):
                caches[node] = cache
                break
    return tuple(caches.values())


def find_cache_facts(gm: GraphModule, n_results: int | None = None) -> dict[Node, Facts]:
    """Return the facts about every value that holds a KV cache before or after the call."""
    facts: dict[Node, Facts] = {}
    for cache in find_kv_caches(gm, n_results):
        for node in (cache.before, cache.after):
            if node is not None:
                facts[node] = Facts(
                    role=Role.KV_CACHE, residency=Residency.SESSION, nbytes=nbytes_of(node), evidence=cache.evidence
                )
    return facts


def _as_cache(node: Node, attention: Node, results: set[Node], written_back: dict[Any, Any]) -> KVCache | None:
    read = f"read by attention {attention.name}"
    if node in written_back and (before := _cache_before(node)) is written_back[node]:
        return KVCache(CacheKind.WRITTEN, before, node, (read, f"{node.name} is copied back into {before.name}"))
    if node not in results or node.op == "placeholder":
        return None
    before = _cache_before(node)
    if before is None:
        return KVCache(CacheKind.BORN, None, node, (read, f"{node.name} is a result of the graph"))
    kind = CacheKind.GROWN if node.target is aten.cat.default else CacheKind.WRITTEN
    return KVCache(kind, before, node, (read, f"{node.name} is {before.name} and new entries, and a result"))


def _cache_before(node: Node) -> Node | None:
    """Return the input that `node` extends or overwrites in part."""
    if node.target is aten.cat.default:
        past = node.args[0][0]  # type: ignore[index]
    elif node.target in _WRITES:
        past = node.args[0]
    else:
        return None
    assert isinstance(past, Node)
    past = origin(past)
    return past if past.op == "placeholder" else None


def _history(node: Node) -> list[Node]:
    """Return `node` and what it is arranged from, newest first, up to the operator that computed the values."""
    history = [node]
    while isinstance(node.args[0] if node.args else None, Node) and node.target in RESHAPING:
        node = node.args[0]  # type: ignore[assignment]
        history.append(node)
    return history
