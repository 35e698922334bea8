"""Finds the KV caches of a graph by following what attentions read, never by names. Looks, and changes nothing.

Four shapes are known::

    grown     placeholder -> cat([past, new]) -> attention, and the cat (or its last entries) is a result of the graph
    written   placeholder -> index_copy / index_put / slice_scatter / roll / where -> copy_ back into the placeholder
    born      a result of the graph that an attention reads as key or value, made from no earlier cache (prefill)
    read      placeholder -> attention, and nothing is added (cross-attention after its first step)

An attention has a cache when both its keys and its values come from such tensors: a model that shows its keys alone,
or its hidden states, keeps no cache.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch.fx import GraphModule, Node

from dynamo_genie.passes.graphs.graph_view import result_nodes
from dynamo_genie.passes.graphs.origins import Origins
from dynamo_genie.passes.understanding.attention import Attention
from dynamo_genie.passes.understanding.axes import length_of, shape_of
from dynamo_genie.passes.understanding.cache_update import (
    Entries,
    find_update,
    is_windowed,
    same_but_length,
    sequence_axis,
)
from dynamo_genie.passes.understanding.kv_cache import CacheKind, KVCache
from dynamo_genie.passes.understanding.latents import latent_entries
from dynamo_genie.passes.understanding.lineage import carried_to, history, is_computed

aten = torch.ops.aten

_PICKS: frozenset[Any] = frozenset(
    {aten.select.int, aten.slice.Tensor, aten.index.Tensor, aten.index_select.default, operator.getitem}
)


def find_kv_caches(gm: GraphModule, attentions: Sequence[Attention], origins: Origins) -> tuple[KVCache, ...]:
    """Return the KV caches that the given attentions of a graph read."""
    if origins.direction == "backward":
        return ()
    search = _Search(gm, origins)
    found: dict[Node, list[tuple[KVCache, Attention]]] = {}
    for attention in attentions:
        for cache in search.caches_of(attention):
            found.setdefault(cache.after, []).append((cache, attention))
    return tuple(_merged(readings) for readings in found.values())


def _merged(readings: list[tuple[KVCache, Attention]]) -> KVCache:
    """One tensor may serve several attentions (shared layers, keys and values in one): one record, all readers."""
    first = readings[0][0]
    readers = tuple(dict.fromkeys(attention.node for _, attention in readings))
    return replace(first, attentions=readers, confidence=max(cache.confidence for cache, _ in readings))


class _Search:
    """What is asked of the graph again for each attention, computed once."""

    def __init__(self, gm: GraphModule, origins: Origins) -> None:
        self._gm = gm
        self._origins = origins

    @cached_property
    def _results(self) -> frozenset[Node]:
        return frozenset(result_nodes(self._gm, self._origins.n_results))

    @cached_property
    def _written_back(self) -> Mapping[Any, Node]:
        """The input that each value is copied back into."""
        copies = self._gm.graph.find_nodes(op="call_function", target=aten.copy_.default)
        return {copy.args[1]: copy.args[0] for copy in copies}

    @cached_property
    def _model_inputs(self) -> frozenset[Node]:
        placeholders = self._gm.graph.find_nodes(op="placeholder")
        return frozenset(placeholders[position] for position in self._origins.model_inputs)

    def caches_of(self, attention: Attention) -> list[KVCache]:
        """Return the caches of keys and values; none, unless both have one."""
        sides = (attention.key_history, attention.value_history)
        for keys, values in (self._all_kept(sides, attention), (self._read_only(side, attention) for side in sides)):
            if keys and values and _differ(keys, values, attention):
                return [*keys, *values]
        keys, values = self._all_kept(latent_entries(attention), attention)
        return [replace(cache, latent=True) for cache in (*keys, *values)] if keys and values else []

    def _all_kept(self, sides: Sequence[Entries], attention: Attention) -> Iterator[list[KVCache]]:
        return (list(self._kept(side, attention)) for side in sides)

    def _kept(self, entries: Entries, attention: Attention) -> Iterator[KVCache]:
        """Yield the caches among the values that carry some of the entries on."""
        for node in carried_to(list(entries)):
            if node in self._written_back or (node in self._results and node.op != "placeholder"):
                cache = self._as_cache(node, entries, attention)
                if cache is not None:
                    yield cache

    def _as_cache(self, after: Node, entries: Entries, attention: Attention) -> KVCache | None:
        """Describe a value that carries entries out of the graph; None for one that has no place for positions."""
        axis = sequence_axis(after, entries)
        if len(after.meta["val"].shape) < 2 or (axis is None and after not in entries):
            return None
        made_from = history(after, axis)
        before = self._written_back.get(after) or self._before(after, made_from)
        kind, how = self._kind_of(after, before)
        update = find_update(made_from, before)
        window = before is not None and is_windowed(made_from)
        sure = 1.0 if before is not None else 0.9 if attention.causal else 0.7
        return KVCache(kind, before, after, update, axis, window, (attention.node,), sure, (_read_by(attention), how))

    def _kind_of(self, after: Node, before: Node | None) -> tuple[CacheKind, str]:
        if after in self._written_back:
            return CacheKind.WRITTEN, f"{after.name} is copied back into {before}"
        if before is None:
            return CacheKind.BORN, f"{after.name} is a result of the graph"
        return CacheKind.GROWN, f"{after.name} is a result of the graph, made from {before.name}"

    def _before(self, after: Node, made_from: Entries) -> Node | None:
        """Return the input that `after` extends or overwrites in part."""
        inputs = (node for node in made_from if node.op == "placeholder" and node not in self._model_inputs)
        return next((node for node in inputs if same_but_length(node, after)), None)

    def _read_only(self, entries: Entries, attention: Attention) -> list[KVCache]:
        """Return the inputs that entries come from and that no result replaces, when the queries are computed here."""
        if not any(map(is_computed, attention.query_history)):
            return []
        held = [node for node in entries if self._holds_keys(node, entries, attention)]
        caches = [self._as_read(node, entries, attention) for node in held]
        return [cache for cache in caches if cache.update or not any(map(is_computed, entries))]

    def _holds_keys(self, node: Node, entries: Entries, attention: Attention) -> bool:
        if node.op != "placeholder" or node in self._model_inputs or len(shape_of(node) or ()) < 2:
            return False
        length = length_of(node, entries[node])
        return length is not None and attention.key_length is not None and length <= attention.key_length

    def _as_read(self, node: Node, entries: Entries, attention: Attention) -> KVCache:
        update = find_update({at: axis for at, axis in entries.items() if at.target is not aten.where.self}, node)
        evidence = (_read_by(attention), f"{node.name} is an input that no result replaces")
        return KVCache(CacheKind.READ, node, node, update, entries[node], False, (attention.node,), 0.8, evidence)


def _read_by(attention: Attention) -> str:
    return f"read by attention {attention.node.name}"


def _differ(keys: Sequence[KVCache], values: Sequence[KVCache], attention: Attention) -> bool:
    """Say whether keys and values are different things: a memory that is read as both is no cache."""
    if {cache.after for cache in keys} != {cache.after for cache in values}:
        return True
    return _parts(attention.key_history) != _parts(attention.value_history)


def _parts(entries: Entries) -> set[tuple[object, ...]]:
    """Return which parts of a whole the entries were picked from."""
    return {(node.target, str(node.args[1:])) for node in entries if node.target in _PICKS}
