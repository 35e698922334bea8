"""The analysis of one captured graph: all passes that look, in one call. Adds facts to nodes, rewrites nothing."""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import GraphModule

from dynamo_genie.passes.graphs.origins import Origins
from dynamo_genie.passes.graphs.pipeline import AnalysisPass, Observer, PassRecord, run_passes
from dynamo_genie.passes.graphs.semantics import META_KEY, Phase
from dynamo_genie.passes.understanding.attention import Attention, attention_facts
from dynamo_genie.passes.understanding.colocation import find_groups
from dynamo_genie.passes.understanding.cost import find_costs
from dynamo_genie.passes.understanding.findings import Findings
from dynamo_genie.passes.understanding.kv_cache import KVCache, cache_facts
from dynamo_genie.passes.understanding.regions import phase_facts
from dynamo_genie.passes.understanding.roles import find_roles


@dataclass(frozen=True)
class Analysis:
    """The analysis of a graph as a whole; what is known of single values stands on its nodes."""

    phase: Phase
    phase_evidence: tuple[str, ...]
    caches: tuple[KVCache, ...]
    records: tuple[PassRecord, ...]
    attentions: tuple[Attention, ...] = ()


def analyses(findings: Findings) -> tuple[AnalysisPass, ...]:
    """Return what is asked of every graph, top to bottom. A later pass sees the facts of the earlier ones."""
    f = findings
    return (
        AnalysisPass("attention", lambda gm: attention_facts(f.attentions)),
        AnalysisPass("kv_cache", lambda gm: cache_facts(f.caches)),
        AnalysisPass("roles", lambda gm: find_roles(gm, f.origins, f.attentions, f.logits)),
        AnalysisPass("phase", lambda gm: phase_facts(gm, f.phase, f.attentions, f.towers)),
        AnalysisPass("cost", find_costs),
        AnalysisPass("colocation", lambda gm: find_groups(gm, f.caches)),
    )


def analyse(gm: GraphModule, origins: Origins, observe: Observer | None = None) -> Analysis:
    """Annotate every node of `gm` with `Facts` and return what was found.

    Args:
        gm: A portable ATen graph; see `dynamo_genie.passes.rewrites.portable`.
        origins: What the capture knows of its inputs and results.
        observe: Called after each pass, for dumps.

    Raises:
        BrokenInvariant: A pass has a bug.
    """
    _forget_facts(gm)
    findings = Findings(gm, origins)
    records = run_passes(gm, analyses(findings), observe).records
    phase = findings.phase
    return Analysis(phase.phase, phase.evidence, findings.caches, records, findings.attentions)


def _forget_facts(gm: GraphModule) -> None:
    """Let a graph start without facts: AOTAutograd gives inputs of a backward graph the forward's very dictionaries."""
    for node in gm.graph.nodes:
        node.meta = {key: value for key, value in node.meta.items() if key != META_KEY}
