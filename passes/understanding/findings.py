"""The findings on a graph, from attentions to its phase: each is computed when it is first asked for, and once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch.fx import GraphModule, Node

from dynamo_genie.passes.graphs.origins import Origins
from dynamo_genie.passes.graphs.semantics import Facts
from dynamo_genie.passes.understanding.attention import Attention
from dynamo_genie.passes.understanding.attention_search import find_attentions
from dynamo_genie.passes.understanding.cache_search import find_kv_caches
from dynamo_genie.passes.understanding.kv_cache import KVCache
from dynamo_genie.passes.understanding.logits import find_logits
from dynamo_genie.passes.understanding.phase import PhaseReport, detect_phase
from dynamo_genie.passes.understanding.towers import Towers, find_towers


@dataclass(frozen=True)
class Findings:
    """A graph, what the capture knows of it, and all that follows from the two."""

    gm: GraphModule
    origins: Origins

    @cached_property
    def attentions(self) -> tuple[Attention, ...]:
        """The attentions, in graph order."""
        return find_attentions(self.gm, self.origins)

    @cached_property
    def caches(self) -> tuple[KVCache, ...]:
        """The KV caches that attentions read."""
        return find_kv_caches(self.gm, self.attentions, self.origins)

    @cached_property
    def logits(self) -> dict[Node, Facts]:
        """The results that score a vocabulary."""
        return find_logits(self.gm, self.origins)

    @cached_property
    def towers(self) -> Towers:
        """Which inputs each node depends on."""
        return find_towers(self.gm, self.origins)

    @cached_property
    def phase(self) -> PhaseReport:
        """What the graph does."""
        return detect_phase(self.attentions, self.caches, self.towers, list(self.logits), self.origins)
