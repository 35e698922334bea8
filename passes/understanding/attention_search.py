"""Finds every attention of a graph, kept as one operator, or spelled out: a product, a softmax, a product with values.

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
from typing import Any

import torch
from torch.fx import GraphModule, Node

from dynamo_genie.passes.graphs.graph_view import RESHAPING, is_attention
from dynamo_genie.passes.graphs.origins import Origins
from dynamo_genie.passes.understanding.attention import Attention
from dynamo_genie.passes.understanding.axes import axis_before, length_of, shape_of
from dynamo_genie.passes.understanding.causality import is_causal
from dynamo_genie.passes.understanding.lineage import PRODUCTS, is_pointwise
from dynamo_genie.schemas import read_schema
from dynamo_genie.torch_internals.operators import OpOverload

aten = torch.ops.aten

_OPERAND_NAMES = ("query", "key", "value")

_SOFTMAXES: frozenset[Any] = frozenset({aten._softmax.default, aten._safe_softmax.default})
_SINKS: frozenset[Any] = frozenset({aten.cat.default, aten.slice.Tensor, aten.constant_pad_nd.default})
"""What adds a column to the scores that no key stands for, and takes it off the shares again."""


def find_attentions(gm: GraphModule, origins: Origins) -> tuple[Attention, ...]:
    """Return the attentions of a graph, in graph order of where each begins to mix values."""
    placeholders = gm.graph.find_nodes(op="placeholder")
    return tuple(_attentions(gm, frozenset(placeholders[position] for position in origins.buffers)))


def _attentions(gm: GraphModule, buffers: frozenset[Node]) -> Iterator[Attention]:
    for node in gm.graph.nodes:
        if is_attention(node):
            yield _whole(node, buffers)
        elif node.target in _SOFTMAXES and (spelled := _spelled(node, buffers)):
            yield spelled


def _whole(node: Node, buffers: frozenset[Node]) -> Attention:
    arguments = _named_arguments(node)
    query, key, value = (arguments[name] for name in _OPERAND_NAMES)
    mask = arguments.get("attn_mask", arguments.get("attn_bias"))
    biases = (mask,) if isinstance(mask, Node) else ()
    key_axis, value_axis = (len(operand.meta["val"].shape) - 2 for operand in (key, value))
    return Attention(
        node, query, key, value, key_axis, value_axis, length_of(query, -2), length_of(key, key_axis), biases,
        bool(arguments.get("is_causal", False)) or any(is_causal(bias, buffers) for bias in biases),
    )  # fmt: skip


def _named_arguments(node: Node) -> dict[str, Any]:
    """Return the arguments of an attention kept as one operator, by the names of its schema."""
    target = node.target
    if not isinstance(target, OpOverload):
        target = aten._scaled_dot_product_flash_attention_for_cpu.default  # what the portable operator stands for
    return {**dict(zip(read_schema(target).names, node.args, strict=False)), **node.kwargs}


# --- spelled out -----------------------------------------------------------------------------------------


def _spelled(softmax: Node, buffers: frozenset[Node]) -> Attention | None:
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
    return Attention(
        product, query, key, value, key_axis, value_axis, length_of(softmax, -2), length_of(key, key_axis),
        tuple(biases), any(is_causal(bias, buffers) for bias in biases), softmax,
    )  # fmt: skip


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
    if node.target in _SOFTMAXES:
        yield node.all_input_nodes[0]
    elif node.target not in PRODUCTS and _keeps_scores(node):
        yield from node.all_input_nodes


def _operands(product: Node) -> tuple[Node, Node]:
    first = PRODUCTS[product.target]
    left, right = product.args[first : first + 2]
    assert isinstance(left, Node) and isinstance(right, Node)
    return left, right
