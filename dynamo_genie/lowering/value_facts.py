"""Facts about a graph's values, as a Program carries them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.fx import Node

from dynamo_genie.passes.graphs.semantics import Facts, facts_of
from dynamo_genie.runtime.wire import program as p


def lower_facts(index: Mapping[Node, int]) -> dict[str, Any]:
    """Return what the passes know of each value, equal facts once; nothing where no pass has looked.

    Args:
        index: The number of each value.
    """
    by_value = {number: facts_of(node) for node, number in index.items()}
    if all(facts == Facts() for facts in by_value.values()):
        return {}
    distinct: dict[p.ValueFacts, int] = {}
    numbers = [distinct.setdefault(_lower(by_value.get(i, Facts())), len(distinct)) for i in range(max(by_value) + 1)]
    return {"facts": tuple(distinct), "fact_of": tuple(numbers)}


def _lower(facts: Facts) -> p.ValueFacts:
    return p.ValueFacts(
        role=facts.role.value if facts.role else "",
        phase=facts.phase.value if facts.phase else "",
        residency=facts.residency.value if facts.residency else "",
        group=facts.group or "",
        priority=facts.priority or 0,
        nbytes=-1 if facts.nbytes is None else facts.nbytes,
        flops=-1 if facts.flops is None else facts.flops,
        dtype=facts.dtype or "",
        confidence=facts.confidence or 0.0,
    )
