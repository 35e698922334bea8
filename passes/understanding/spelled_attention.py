"""Recognises attention written out as operators: a product, a softmax, and a product with the values.

Between the first product and the softmax may stand scaling, soft caps, masks, position biases and casts; between the
softmax and the second product dropout and casts::

    %scores = aten.bmm.default(%query, %key_transposed)
    %scaled = aten.mul.Tensor(%scores, 0.125)
    %masked = aten.where.self(%mask, %scaled, %minus_infinity)
    %shares = aten._softmax.default(%masked, -1, False)
    %result = aten.bmm.default(%shares, %value)
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from dynamo_genie.passes.graphs.graph_view import RESHAPING
from dynamo_genie.passes.understanding.axes import axis_before, shape_of
from dynamo_genie.passes.understanding.lineage import PRODUCTS, is_pointwise

aten = torch.ops.aten

SOFTMAXES: frozenset[Any] = frozenset({aten._softmax.default, aten._safe_softmax.default})
_SINKS: frozenset[Any] = frozenset({aten.cat.default, aten.slice.Tensor, aten.constant_pad_nd.default})
"""What adds a column to the scores that no key stands for, and takes it off the shares again."""


@dataclass(frozen=True)
class SpelledAttention:
    """The operands of an attention that is spelled out.

    Attributes:
        product: The node that multiplies the shares with the values: the attention's result.
        key_axis: The dimension of `key` along which the keys are lined up; `value_axis` likewise.
        biases: What is added to the scores or chooses among them: masks and position biases.
    """

    product: Node
    softmax: Node
    query: Node
    key: Node
    value: Node
    key_axis: int
    value_axis: int
    biases: tuple[Node, ...]


def read_spelled_attention(softmax: Node) -> SpelledAttention | None:
    """Return the attention that a softmax is the middle of, None where it is not the middle of one."""
    scores, biases = _scores_of(softmax)
    found = _weighted_sum(softmax)
    if scores is None or found is None:
        return None
    product, shares_are_left = found
    query, key, key_axis = _query_and_key(scores, softmax)
    left, right = _operands(product)
    value = right if shares_are_left else left
    rank = len(value.meta["val"].shape)
    value_axis = rank - 2 if shares_are_left else rank - 1
    return SpelledAttention(product, softmax, query, key, value, key_axis, value_axis, tuple(biases))


def _scores_of(softmax: Node) -> tuple[Node | None, list[Node]]:
    """Return the product nearest above a softmax, and what was combined with it on the way.

    Of several products (some position biases are made by one) the nearest is the one that the biases are added to.
    """
    parents: dict[Node, Node] = {}
    pending = [softmax.args[0]]
    for node in pending:
        assert isinstance(node, Node)
        if node.target in PRODUCTS:
            return node, _beside(node, softmax, parents)
        if _keeps_scores(node):
            pending.extend(source for source in node.all_input_nodes if parents.setdefault(source, node) is node)
    return None, []


def _beside(product: Node, softmax: Node, parents: dict[Node, Node]) -> list[Node]:
    """Return the operands that join the path from a product to a softmax."""
    path = {product}
    node = product
    while node in parents:
        node = parents[node]
        path.add(node)
    beside = [source for node in path if node is not product for source in node.all_input_nodes if source not in path]
    added = product.args[0] if PRODUCTS[product.target] else None  # the bias of a baddbmm or addmm
    return [*beside, added] if isinstance(added, Node) else beside


def _keeps_scores(node: Node) -> bool:
    return node.target in RESHAPING or node.target in _SINKS or is_pointwise(node)


def _weighted_sum(softmax: Node) -> tuple[Node, bool] | None:
    """Return the product that reads the shares, and whether they are its left operand."""
    seen = {softmax}
    pending = [softmax]
    for node in pending:
        for user in node.users:
            if user.target in PRODUCTS:
                return user, _operands(user)[0] is node
            if user not in seen and _keeps_shares(user, node):
                seen.add(user)
                pending.append(user)
    return None


def _keeps_shares(node: Node, shares: Node) -> bool:
    """Say whether a node passes shares on: cast, dropped out or without a sink, but not spread over more."""
    if node.target in (aten.native_dropout.default, operator.getitem):
        return True
    return _keeps_scores(node) and (not is_pointwise(node) or shape_of(node) == shape_of(shares))


def _query_and_key(scores: Node, softmax: Node) -> tuple[Node, Node, int]:
    """Tell query and key apart: the keys are the side along which the softmax sums to one."""
    left, right = _operands(scores)
    rank = len(scores.meta["val"].shape)
    dim = softmax.args[1]
    assert isinstance(dim, int)
    axis = _axis_at(scores, softmax, dim % len(softmax.meta["val"].shape))
    if axis == rank - 2:
        return right, left, len(left.meta["val"].shape) - 2
    return left, right, len(right.meta["val"].shape) - 1


def _axis_at(scores: Node, softmax: Node, axis: int | None) -> int | None:
    """Return the dimension of the scores that the softmax's dimension `axis` is."""
    pending: list[tuple[Node, int | None]] = [(softmax, axis)]
    seen = {softmax}
    for node, here in pending:
        if node is scores:
            return here
        for source in _towards(node):
            if source not in seen:
                seen.add(source)
                pending.append((source, axis_before(node, source, here)))
    return None


def _towards(node: Node) -> Iterator[Node]:
    if node.target in SOFTMAXES:
        yield node.all_input_nodes[0]
    elif node.target not in PRODUCTS and _keeps_scores(node):
        yield from node.all_input_nodes


def _operands(product: Node) -> tuple[Node, Node]:
    first = PRODUCTS[product.target]
    left, right = product.args[first : first + 2]
    assert isinstance(left, Node) and isinstance(right, Node)
    return left, right
