"""What each value of a captured graph is: weight, token ids, mask, activation, ... Looks, and changes nothing.

Which inputs are parameters and buffers is known to the capture, and comes in as an argument.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch.fx import GraphModule, Node

from dynamo_genie.passes.graph_view import attention_masks, result_nodes
from dynamo_genie.passes.semantics import Facts, Residency, Role, nbytes_of

aten = torch.ops.aten


@dataclass(frozen=True)
class Origins:
    """What the capture knows of a graph: which inputs, by position, are the model's own, and what the results are.

    Attributes:
        n_results: How many of the results the user sees; the rest are saved for backward. None: all.
        kind: Whether the graph is one without a backward, a forward that has one, or a backward.
    """

    parameters: frozenset[int] = frozenset()
    buffers: frozenset[int] = frozenset()
    n_results: int | None = None
    kind: Literal["inference", "forward", "backward"] = "inference"


def find_roles(gm: GraphModule, origins: Origins) -> dict[Node, Facts]:
    """Return the facts about every node of `gm`; in a backward graph the results are gradients."""
    facts: dict[Node, Facts] = {}
    masks = attention_masks(gm)
    for position, node in enumerate(gm.graph.find_nodes(op="placeholder")):
        facts[node] = _input_facts(node, position, origins, masks)
    for node in gm.graph.nodes:
        if node not in facts and node.op != "output":
            facts[node] = _inner_facts(node)
    for node in result_nodes(gm):
        if node.op == "call_function":
            role = Role.GRADIENT if origins.kind == "backward" else facts[node].role
            facts[node] = replace(facts[node], role=role, residency=Residency.STEP, evidence=("graph result",))
    return facts


def _input_facts(node: Node, position: int, origins: Origins, masks: frozenset[Node]) -> Facts:
    if position in origins.parameters:
        return _facts(node, Role.WEIGHT, Residency.PERSISTENT, f"input {position} is a parameter")
    if position in origins.buffers:
        return _facts(node, Role.BUFFER, Residency.PERSISTENT, f"input {position} is a buffer")
    if node in masks:
        return _facts(node, Role.MASK, Residency.STEP, "mask of an attention")
    for user, weight in _lookups(node):
        if weight in origins.parameters:
            return _facts(node, Role.TOKEN_IDS, Residency.STEP, f"looks up rows of a parameter at {user.name}")
    return _facts(node, Role.ACTIVATION, Residency.STEP, f"input {position} of the call")


def _inner_facts(node: Node) -> Facts:
    if node.op == "get_attr":
        return _facts(node, Role.CONSTANT, Residency.PERSISTENT, "held by the graph")
    if isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags:
        return _facts(node, Role.RNG, Residency.TRANSIENT, f"{node.target} draws random numbers")
    return _facts(node, Role.ACTIVATION, Residency.TRANSIENT)


def _lookups(node: Node) -> Iterator[tuple[Node, int | None]]:
    """Yield the embeddings that read `node` as indices, each with the position of its weight among the inputs."""
    placeholders = node.graph.find_nodes(op="placeholder")
    for user in node.users:
        if user.target is aten.embedding.default and user.args[1] is node:
            weight = user.args[0]
            yield user, placeholders.index(weight) if weight in placeholders else None


def _facts(node: Node, role: Role, residency: Residency, *evidence: str) -> Facts:
    return Facts(role=role, residency=residency, nbytes=nbytes_of(node), evidence=evidence)
