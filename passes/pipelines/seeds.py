"""Seeds: along which rows a graph may be tried to be cut. A guess by shapes; whether it is right, the rules decide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch.fx import GraphModule, Node

from dynamo_genie.passes.graphs.semantics import Residency, Role, facts_of
from dynamo_genie.passes.rows.template import Axis

KERNEL_BLOCK = 512
"""Tokens that fused attention takes at once: pieces that end at a multiple of it meet the same blocks as the whole."""

FEWEST_TOKENS = 2 * KERNEL_BLOCK
FEWEST_IMAGES = 8


@dataclass(frozen=True)
class Seeds:
    """Inputs that have the same rows.

    Attributes:
        what: What a row is, for people and for the choice of pieces.
        axes: The inputs, and where their rows are.
        rows: How many there are.
    """

    what: Literal["tokens", "samples"]
    axes: Mapping[Node, Axis]
    rows: int


def find_seeds(gm: GraphModule) -> tuple[Seeds, ...]:
    """Return the ways in which the inputs of a call may be cut: a prompt by its tokens, a batch by its samples."""
    inputs = [node for node in gm.graph.find_nodes(op="placeholder") if _comes_with_the_call(node)]
    return (*_tokens(inputs), *(() if has_past(gm) else _samples(inputs)))


def has_past(gm: GraphModule) -> bool:
    """Say whether calls of a graph go on from a cache, whose rows are where they are."""
    return any(facts_of(node).role is Role.KV_CACHE for node in gm.graph.find_nodes(op="placeholder"))


def _comes_with_the_call(node: Node) -> bool:
    """Say whether an input is neither a weight nor a cache; one that the graph does not read does not count."""
    facts = facts_of(node)
    if not isinstance(node.meta.get("val"), torch.Tensor) or not node.users:
        return False
    return facts.residency is not Residency.PERSISTENT and facts.role is not Role.KV_CACHE


def _tokens(inputs: list[Node]) -> list[Seeds]:
    """Sequences are along the second dimension: token ids, or their embeddings."""
    lengths = [_shape(node)[1] for node in inputs if 2 <= len(_shape(node)) <= 3]
    rows = max(lengths, default=0)
    axes = {node: Axis(1) for node in inputs if 2 <= len(_shape(node)) <= 3 and _shape(node)[1] == rows}
    axes.update({node: Axis(0) for node in inputs if _shape(node) == (rows,)})
    return [Seeds("tokens", axes, rows)] if rows >= FEWEST_TOKENS else []


def _samples(inputs: list[Node]) -> list[Seeds]:
    """The samples of a batch are along the first dimension of what most inputs are."""
    batches = Counter(_shape(node)[0] for node in inputs if len(_shape(node)) >= 2)
    rows = max(batches, key=lambda size: (batches[size], size), default=0)
    axes = {node: Axis(0) for node in inputs if _shape(node)[:1] == (rows,)}
    return [Seeds("samples", axes, rows)] if rows >= FEWEST_IMAGES else []


def _shape(node: Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def is_long(shape: tuple[int, ...]) -> bool:
    """Say whether an input of this shape has enough rows of some kind to be cut."""
    return (len(shape) >= 2 and shape[0] >= FEWEST_IMAGES) or any(size >= FEWEST_TOKENS for size in shape[:2])
