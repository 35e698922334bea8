"""Finds the results that score a vocabulary: a product whose columns are as many as an embedding has rows."""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

from dynamo_genie.passes.graphs.graph_view import result_nodes
from dynamo_genie.passes.graphs.origins import Origins
from dynamo_genie.passes.graphs.semantics import Facts, Residency, Role
from dynamo_genie.passes.understanding.axes import length_of
from dynamo_genie.passes.understanding.lineage import PRODUCTS, history, is_computed

aten = torch.ops.aten

_LARGE = 1000
_TIMES = 4


def find_logits(gm: GraphModule, origins: Origins) -> dict[Node, Facts]:
    """Return the results of a forward graph that score a vocabulary, with what that makes of them."""
    if origins.direction == "backward":
        return {}
    lookups = gm.graph.find_nodes(op="call_function", target=aten.embedding.default)
    vocabularies = {length_of(lookup.args[0], 0) for lookup in lookups}
    results = dict.fromkeys(result_nodes(gm, origins.n_results))
    return {node: facts for node in results if (facts := _as_logits(node, vocabularies)) is not None}


def _as_logits(node: Node, vocabularies: set[int | None]) -> Facts | None:
    columns = length_of(node, -1)
    known = columns in vocabularies
    if columns is None or not (known or columns >= _LARGE):
        return None
    product = next((source for source in history(node, None) if is_computed(source)), None)
    if product is None or product.target not in PRODUCTS or length_of(product, -1) != columns:
        return None
    if known:
        return _facts(0.95, f"{product.name} has {columns} columns, as many as an embedding has rows")
    inner = length_of(product.all_input_nodes[-1], 0) or columns
    much = columns >= _TIMES * inner
    return _facts(0.6, f"{product.name} ends in {columns} columns, from {inner}") if much else None


def _facts(confidence: float, why: str) -> Facts:
    return Facts(role=Role.LOGITS, residency=Residency.STEP, confidence=confidence, evidence=(why,))
