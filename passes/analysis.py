"""All that the passes find out about one captured graph, in one call. Looks, adds facts to nodes, rewrites nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch.fx import GraphModule

from dynamo_genie.passes.kv_cache import KVCache, find_cache_facts, find_kv_caches
from dynamo_genie.passes.pipeline import PassRecord
from dynamo_genie.passes.roles import Origins, find_roles
from dynamo_genie.passes.semantics import Phase, annotate, facts_of

Observe = Callable[[PassRecord, GraphModule], None]


@dataclass(frozen=True)
class Analysis:
    """What is known of a graph as a whole; what is known of single values stands on its nodes."""

    phase: Phase
    phase_evidence: tuple[str, ...]
    caches: tuple[KVCache, ...]
    records: tuple[PassRecord, ...]


def analyse(gm: GraphModule, origins: Origins, observe: Observe | None = None) -> Analysis:
    """Annotate every node of `gm` with `Facts` and return what was found.

    Args:
        gm: A portable ATen graph; see `dynamo_genie.passes.portable`.
        origins: What the capture knows of its inputs and results.
        observe: Called after each pass, for dumps.
    """
    annotate(find_cache_facts(gm, origins.n_results))
    annotate({node: facts for node, facts in find_roles(gm, origins).items() if facts_of(node).role is None})
    return Analysis(Phase.OTHER, (), find_kv_caches(gm, origins.n_results), ())
