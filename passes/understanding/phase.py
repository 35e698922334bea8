"""The phase of a graph: prefill, decode, encode, vision. Told from attentions and their caches, not from names.

The phase of an attention follows from who looks at what::

    queries made of pixels alone                      vision
    keys of another tower                             cross_attention
    a cache before it, one query (or a few)           decode
    a cache that is born or filled by many queries    prefill
    causal, and the graph ends in logits              prefill
    anything else                                     encode
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch.fx import Node

from dynamo_genie.passes.graphs.origins import Origins
from dynamo_genie.passes.graphs.semantics import Phase
from dynamo_genie.passes.understanding.attention import Attention
from dynamo_genie.passes.understanding.kv_cache import CacheKind, KVCache
from dynamo_genie.passes.understanding.towers import Towers, is_cross_attention

_FEW = 16
"""So many tokens on top of a longer cache are a decode step all the same: a speculated chunk."""

DECODING = frozenset({Phase.PREFILL, Phase.DECODE})


@dataclass(frozen=True)
class PhaseReport:
    """The phase of a graph as a whole, why, and the phase of each of its attentions."""

    phase: Phase
    evidence: tuple[str, ...]
    attentions: Mapping[Node, Phase]


def detect_phase(
    attentions: Sequence[Attention],
    caches: Sequence[KVCache],
    towers: Towers,
    logits: Sequence[Node],
    origins: Origins,
) -> PhaseReport:
    """Return the phase of a graph, from its attentions; a graph that trains is told by the capture."""
    read: dict[Node, list[KVCache]] = {}
    for cache in caches:
        for node in cache.attentions:
            read.setdefault(node, []).append(cache)
    phases = {at.node: _phase_of(at, read.get(at.node, []), towers, bool(logits)) for at in attentions}
    phase, evidence = _as_a_whole(attentions, phases, read, towers, origins)
    return PhaseReport(phase, evidence, phases)


def _phase_of(attention: Attention, caches: list[KVCache], towers: Towers, has_logits: bool) -> Phase:
    if towers.within(attention.query, towers.pixels):
        return Phase.VISION
    if not any(cache.latent for cache in caches) and is_cross_attention(attention, towers):
        return Phase.CROSS_ATTENTION
    if caches:
        return Phase.DECODE if _continues(attention, caches) else Phase.PREFILL
    return Phase.PREFILL if attention.causal and has_logits else Phase.ENCODE


def _continues(attention: Attention, caches: list[KVCache]) -> bool:
    """Say whether a few queries stand on top of a cache that is longer than they are."""
    if all(cache.kind is CacheKind.BORN for cache in caches):
        return False
    queries, keys = attention.query_length, attention.key_length
    if queries is None or keys is None or queries == 1:
        return queries == 1
    filled_unknown = any(cache.kind is CacheKind.WRITTEN for cache in caches)
    return not filled_unknown and queries <= min(_FEW, keys - queries)


def _as_a_whole(
    attentions: Sequence[Attention],
    phases: Mapping[Node, Phase],
    read: Mapping[Node, list[KVCache]],
    towers: Towers,
    origins: Origins,
) -> tuple[Phase, tuple[str, ...]]:
    if origins.direction == "forward":
        return Phase.TRAINING_FORWARD, ("the graph has a backward",)
    if origins.direction == "backward":
        return Phase.TRAINING_BACKWARD, ("the graph returns gradients",)
    for attention in attentions:
        if phases[attention.node] in DECODING:
            return phases[attention.node], (_story(attention, read.get(attention.node, [])),)
    for attention in attentions:  # a decoder without a cache of its own
        if phases[attention.node] is Phase.CROSS_ATTENTION and attention.node in read and attention.query_length == 1:
            return Phase.DECODE, (_story(attention, read[attention.node]),)
    return _encoding(attentions, phases, towers)


def _encoding(
    attentions: Sequence[Attention], phases: Mapping[Node, Phase], towers: Towers
) -> tuple[Phase, tuple[str, ...]]:
    for attention in attentions:
        if phases[attention.node] is Phase.ENCODE:
            return Phase.ENCODE, (_story(attention, []),)
    if towers.pixels:
        return Phase.VISION, (f"{towers.pixels[0].name} is read by a convolution over its height and width",)
    if towers.sound:
        return Phase.ENCODE, (f"{towers.sound[0].name} is read by a convolution over time",)
    return Phase.OTHER, ("no attention, no convolution over an input",)


def _story(attention: Attention, caches: list[KVCache]) -> str:
    kinds = sorted({cache.kind.value for cache in caches})
    return f"{attention.describe()} at {attention.node.name}, cache: {' and '.join(kinds) or 'none'}"
