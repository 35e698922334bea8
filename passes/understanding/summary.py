"""A summary of an analysis for the log: a sentence on the phase, one a cache."""

from __future__ import annotations

import logging

from torch.fx import GraphModule

from dynamo_genie.passes.graphs.semantics import nbytes_of
from dynamo_genie.passes.understanding.analysis import Analysis

logger = logging.getLogger(__name__)


def log_summary(name: str, gm: GraphModule, analysis: Analysis) -> None:
    """Log phase and caches; switched on by `TORCH_LOGS="+dynamo_genie.passes"` or a logging level of the program's."""
    evidence = "; ".join(analysis.phase_evidence) or "nothing in particular"
    nodes = len(gm.graph.nodes)
    logger.info("%s: %s, because of %s; %d nodes", name, analysis.phase.value, evidence, nodes)
    logger.info("%s: %d KV caches", name, len(analysis.caches))
    for cache in analysis.caches:
        before, after = cache.before, cache.after
        grown = f"{before.name} -> {after.name}" if before is not None else after.name
        logger.debug("%s: cache %s, %s bytes: %s", name, grown, nbytes_of(after), "; ".join(cache.evidence))
