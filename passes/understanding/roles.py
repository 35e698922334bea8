"""Roles of the values of a captured graph: weight, token ids, mask, logits, ... Looks, and changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch.fx import GraphModule, Node

from dynamo_genie.passes.graphs.graph_view import result_nodes
from dynamo_genie.passes.graphs.origins import Origins
from dynamo_genie.passes.graphs.semantics import Facts, Residency, Role, dtype_of, facts_of, nbytes_of
from dynamo_genie.passes.understanding.attention import Attention
from dynamo_genie.passes.understanding.axes import length_of
from dynamo_genie.passes.understanding.inputs import read_inputs
from dynamo_genie.passes.understanding.lineage import history
from dynamo_genie.torch_internals.operators import OpOverload

aten = torch.ops.aten

_MEANS = frozenset({aten.mean.default, aten.sum.default, aten.mean.dim})


def find_roles(
    gm: GraphModule,
    origins: Origins,
    attentions: Sequence[Attention] = (),
    logits: Mapping[Node, Facts] = MappingProxyType({}),
) -> dict[Node, Facts]:
    """Return the facts about every node of `gm`; a role that a node has already is left to it."""
    facts = _inputs(gm, origins, attentions, logits)
    for node in gm.graph.nodes:
        if node.op not in ("placeholder", "output"):
            facts[node] = _inner(node)
    facts.update(_results(gm, origins, logits, facts))
    return {node: _measured(node, Facts() if facts_of(node).role else fact) for node, fact in facts.items()}


def _inputs(
    gm: GraphModule, origins: Origins, attentions: Sequence[Attention], logits: Mapping[Node, Facts]
) -> dict[Node, Facts]:
    readings = read_inputs(gm, attentions, (length_of(node, -1) for node in logits))
    return {
        node: _input(node, position, origins, readings.get(node))
        for position, node in enumerate(gm.graph.find_nodes(op="placeholder"))
    }


def _input(node: Node, position: int, origins: Origins, reading: Facts | None) -> Facts:
    if position in origins.parameters:
        return _facts(Role.WEIGHT, Residency.PERSISTENT, 1.0, f"input {position} is a parameter")
    if position in origins.buffers:
        return _facts(Role.BUFFER, Residency.PERSISTENT, 1.0, f"input {position} is a buffer")
    if position in origins.gradients:
        return _facts(Role.GRADIENT, Residency.STEP, 1.0, f"input {position} is the gradient of a result")
    if reading is not None and origins.direction != "backward":
        return reading
    return _facts(Role.ACTIVATION, Residency.STEP, 0.5, f"input {position} of the call")


def _inner(node: Node) -> Facts:
    if node.op == "get_attr":
        return _facts(Role.CONSTANT, Residency.PERSISTENT, 1.0, "held by the graph")
    if isinstance(node.target, OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags:
        return _facts(Role.RNG, Residency.TRANSIENT, 1.0, f"{node.target} draws random numbers")
    if not any(_is_tensor(source) for source in node.all_input_nodes):
        return _facts(Role.CONSTANT, Residency.TRANSIENT, 1.0, "made from no tensor")
    return _facts(Role.ACTIVATION, Residency.TRANSIENT, 0.9)


def _results(
    gm: GraphModule, origins: Origins, logits: Mapping[Node, Facts], inner: dict[Node, Facts]
) -> dict[Node, Facts]:
    """Return the facts about what the graph returns; results beyond those the user sees are saved for backward."""
    seen = frozenset(result_nodes(gm, origins.n_results))
    facts: dict[Node, Facts] = {}
    for node in dict.fromkeys(result_nodes(gm)):
        if node.op == "placeholder":
            continue
        if node in logits:
            facts[node] = logits[node]
        elif node in seen:
            facts[node] = _result(node, origins, inner[node])
        else:
            facts[node] = _facts(inner[node].role, Residency.STEP, 0.9, "saved for backward")
    return facts


def _result(node: Node, origins: Origins, inner: Facts) -> Facts:
    if origins.direction == "backward":
        return _facts(Role.GRADIENT, Residency.STEP, 1.0, "result of a backward graph")
    if (confidence := _loss_confidence(node, origins)) is not None:
        return _facts(Role.LOSS, Residency.STEP, confidence, "one number, an average over elements")
    return _facts(inner.role, Residency.STEP, inner.confidence, "graph result")


def _loss_confidence(node: Node, origins: Origins) -> float | None:
    """Return how sure it is that a result is a loss: one number that a loss or an average made."""
    value = node.meta.get("val")
    if not _is_tensor(node) or value.dim() or not value.is_floating_point():  # type: ignore[union-attr]
        return None
    ends = list(history(node, None))
    if any(_is_loss(source) for source in ends):
        return 0.95
    averaged = any(source.target in _MEANS for source in ends)
    return (0.8 if origins.direction == "forward" else 0.5) if averaged else None


def _is_loss(node: Node) -> bool:
    sources = (node, *node.all_input_nodes)
    return any(source.target is aten.nll_loss_forward.default for source in sources)


def _measured(node: Node, facts: Facts) -> Facts:
    """Add the size and the type of a tensor to facts about it."""
    return facts.adding(Facts(nbytes=nbytes_of(node), dtype=dtype_of(node)))


def _is_tensor(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, (torch.Tensor, tuple, list)) or node.op == "get_attr"


def _facts(role: Role | None, residency: Residency, confidence: float | None, *evidence: str) -> Facts:
    return Facts(role=role, residency=residency, confidence=confidence, evidence=evidence)
