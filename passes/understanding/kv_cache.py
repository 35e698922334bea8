"""A KV cache as it was found, and the facts about the values that hold it. Found by `cache_search`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from torch.fx import Node

from dynamo_genie.passes.graphs.semantics import Facts, Residency, Role, nbytes_of


class CacheKind(Enum):
    """How a cache changes in one call."""

    GROWN = "grown"
    WRITTEN = "written"
    BORN = "born"
    READ = "read"


@dataclass(frozen=True)
class KVCache:
    """One KV cache: what holds it before and after the call, who reads it, and why we think so.

    Attributes:
        before: The input that holds it before the call; None for a cache that is born.
        after: The value that holds it after the call: a result, what is copied back, or the input itself.
        update: The `cat` or scatter that puts old and new entries together; None where nothing is added.
        sequence_dim: The dimension of `after` that counts positions; None where it cannot be told.
        window: Whether the oldest entries leave as new ones come.
        latent: Whether keys and values are projected from it, instead of being kept in it.
        attentions: The nodes that read it.
    """

    kind: CacheKind
    before: Node | None
    after: Node
    update: Node | None
    sequence_dim: int | None
    window: bool
    attentions: tuple[Node, ...]
    confidence: float
    evidence: tuple[str, ...]
    latent: bool = False


def cache_facts(caches: Sequence[KVCache]) -> dict[Node, Facts]:
    """Return the facts about every value that holds a KV cache before or after the call."""
    return {
        node: Facts(
            role=Role.KV_CACHE, residency=Residency.SESSION, nbytes=nbytes_of(node),
            confidence=cache.confidence, evidence=cache.evidence,
        )
        for cache in caches
        for node in (cache.before, cache.after)
        if node is not None
    }  # fmt: skip
