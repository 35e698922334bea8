"""Roles of a call's inputs, from what reads them: token ids, positions, masks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

from dynamo_genie.passes.graphs.graph_view import nodes_in, origin
from dynamo_genie.passes.graphs.semantics import Facts, Residency, Role
from dynamo_genie.passes.understanding.attention import Attention
from dynamo_genie.passes.understanding.axes import length_of
from dynamo_genie.passes.understanding.causality import mask_history
from dynamo_genie.passes.understanding.lineage import SCATTERS, history

aten = torch.ops.aten

_WAVES: frozenset[Any] = frozenset({aten.cos.default, aten.sin.default})
_FEW_KINDS = 16
"""A table with fewer rows tells kinds of tokens apart, not tokens or positions."""


def read_inputs(
    gm: GraphModule, attentions: Sequence[Attention], vocabularies: Iterable[int | None]
) -> dict[Node, Facts]:
    """Return what the inputs of a graph seem to be; those that nothing is known of are not in it.

    Args:
        gm: An ATen graph.
        attentions: Its attentions.
        vocabularies: How many tokens the graph's results score, where they do.
    """
    tokens, positions = _looked_up(gm, set(vocabularies))
    found = _masks(attentions)
    found.update(_places(gm))
    found.update(positions)
    found.update(tokens)
    return found


def _looked_up(gm: GraphModule, vocabularies: set[int | None]) -> tuple[dict[Node, Facts], dict[Node, Facts]]:
    """Return the inputs that choose rows of a table: those of the vocabulary, and those of positions."""
    lookups = gm.graph.find_nodes(op="call_function", target=aten.embedding.default)
    rows = {lookup: length_of(lookup.args[0], 0) or 0 for lookup in lookups}
    direct = {lookup: origin(lookup.args[1]) for lookup in lookups}
    tables = {rows[lookup] for lookup in lookups}
    known = tables & vocabularies or {max(tables, default=0)}
    tokens, positions = {}, {}
    for lookup, index in direct.items():
        if index.op != "placeholder":
            continue
        evidence = f"chooses one of {rows[lookup]} rows at {lookup.name}"
        if rows[lookup] in known:
            tokens[index] = _facts(Role.TOKEN_IDS, 0.95, evidence)
        elif rows[lookup] < _FEW_KINDS:
            tokens.setdefault(index, _facts(Role.TOKEN_IDS, 0.5, evidence))
        else:
            positions[index] = _facts(Role.POSITION, 0.7, evidence)
    return tokens, positions


def _places(gm: GraphModule) -> dict[Node, Facts]:
    """Return the inputs that say where entries are written or how far keys are turned, and counters of positions."""
    found: dict[Node, Facts] = {}
    for node in gm.graph.nodes:
        scatter = SCATTERS.get(node.target)
        if scatter is not None and scatter.index is not None:
            _note(found, nodes_in(node.args[scatter.index]), f"says where {node.name} writes")
        elif node.target in _WAVES:
            _note(found, [node], f"is an angle at {node.name}")
        elif _counts_up(node):
            _note(found, [node.args[0]], f"is counted up at {node.name}")
    return found


def _counts_up(node: Node) -> bool:
    """Say whether a node writes a number back into the input that it was made from."""
    if node.target is not aten.copy_.default or len(node.all_input_nodes) != 2:
        return False
    place, value = node.all_input_nodes
    return length_of(place, 0) is None and place in history(value, None)


def _note(found: dict[Node, Facts], nodes: Iterable[Node], evidence: str) -> None:
    for node in nodes:
        for source in history(node, None):
            if source.op == "placeholder" and _is_integer(source):
                found.setdefault(source, _facts(Role.POSITION, 0.9, evidence))


def _masks(attentions: Sequence[Attention]) -> dict[Node, Facts]:
    return {
        source: _facts(Role.MASK, 0.9, f"masks {attention.node.name}")
        for attention in attentions
        for bias in attention.biases
        for source in mask_history(bias)
        if source.op == "placeholder"
    }


def _is_integer(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and not value.is_floating_point() and value.dtype is not torch.bool


def _facts(role: Role, confidence: float, why: str) -> Facts:
    return Facts(role=role, residency=Residency.STEP, confidence=confidence, evidence=(why,))
