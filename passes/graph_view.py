"""Questions about ATen graphs that several passes ask: what is a result, what does an attention read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.fx import GraphModule, Node

from dynamo_genie.passes.portable import portable_attention, portable_replacements

aten = torch.ops.aten

RESHAPING: frozenset[Any] = frozenset(
    {
        aten.view.default, aten._unsafe_view.default, aten.expand.default, aten.clone.default, aten.alias.default,
        aten.detach.default, aten.permute.default, aten.transpose.int, aten.t.default, aten.unsqueeze.default,
        aten.squeeze.dim, aten.squeeze.dims, aten.slice.Tensor, aten._to_copy.default, aten.mul.Scalar,
    }
)  # fmt: skip
"""Operators whose result holds the values of their first argument, arranged or rounded in another way."""


def result_nodes(gm: GraphModule, first: int | None = None) -> list[Node]:
    """Return the nodes that the graph returns (the first few of them, where `first` says so), in order."""
    values = gm.graph.output_node().args[0]
    flat = values if isinstance(values, (list, tuple)) else (values,)
    return [value for value in flat[:first] if isinstance(value, Node)]


def argument(node: Node, position: int, name: str) -> Any:
    """Return an argument of a call whether it was given by position or by name, None where it was not."""
    return node.args[position] if position < len(node.args) else node.kwargs.get(name)


def origin(node: Node) -> Node:
    """Follow a value back through `RESHAPING` operators to where it was made."""
    while node.target in RESHAPING and isinstance(node.args[0], Node):
        node = node.args[0]
    return node


def is_attention(node: Node) -> bool:
    """Say whether a node is an attention kept as one operator."""
    target: Any = node.target
    return target is portable_attention or portable_replacements().get(target) is portable_attention


def attention_operands(gm: GraphModule) -> Iterator[tuple[Node, Node]]:
    """Yield (attention, node) for each key and value that an attention reads, whole or spelled out as products."""
    for node in gm.graph.nodes:
        if is_attention(node):
            yield from ((node, operand) for operand in node.args[1:3])
        elif node.target is aten.bmm.default:
            left, right = node.args
            if is_softmax(origin(left)) or any(map(is_softmax, _consumers(node))):
                yield node, right


def attention_masks(gm: GraphModule) -> frozenset[Node]:
    """Return the nodes from which the masks of attentions are arranged."""
    masks = (node.kwargs.get("attn_mask") for node in gm.graph.nodes if is_attention(node))
    return frozenset(origin(mask) for mask in masks if isinstance(mask, Node))


def is_softmax(node: Node) -> bool:
    return node.target in (aten._softmax.default, aten._safe_softmax.default)


_TOWARDS_SOFTMAX = RESHAPING | {aten.add.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.where.self}


def _consumers(node: Node) -> Iterator[Node]:
    """Yield what reads a score matrix after scaling and masking."""
    seen: set[Node] = set()
    pending = list(node.users)
    while pending:
        user = pending.pop()
        if user in seen:
            continue
        seen.add(user)
        if user.target in _TOWARDS_SOFTMAX:
            pending.extend(user.users)
        else:
            yield user
