"""Finds every attention of a graph, whether kept as one operator or spelled out. Looks, and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.fx import GraphModule, Node

from dynamo_genie.passes.graphs.graph_view import is_attention
from dynamo_genie.passes.graphs.origins import Origins
from dynamo_genie.passes.graphs.semantics import Facts
from dynamo_genie.passes.understanding.axes import length_of
from dynamo_genie.passes.understanding.causality import is_causal
from dynamo_genie.passes.understanding.lineage import history
from dynamo_genie.passes.understanding.spelled_attention import SOFTMAXES, SpelledAttention, read_spelled_attention
from dynamo_genie.schemas import read_schema
from dynamo_genie.torch_internals.operators import OpOverload

aten = torch.ops.aten

_OPERAND_NAMES = ("query", "key", "value")


@dataclass(frozen=True)
class Attention:
    """One attention: what asks, what is looked at, and who may see whom.

    Attributes:
        node: The node that makes the result.
        key_axis: The dimension of `key` along which the keys are lined up; `value_axis` likewise.
        query_length: How many queries, with the example's sizes; None where that depends on data.
        biases: Masks and position biases.
        causal: Whether a query sees no later key.
        softmax: The middle of an attention that is spelled out; None where it is one operator.
    """

    node: Node
    query: Node
    key: Node
    value: Node
    key_axis: int
    value_axis: int
    query_length: int | None
    key_length: int | None
    biases: tuple[Node, ...]
    causal: bool
    softmax: Node | None = None

    @cached_property
    def query_history(self) -> dict[Node, int | None]:
        """What the queries are carried from."""
        return history(self.query, None)

    @cached_property
    def key_history(self) -> dict[Node, int | None]:
        """What the keys are carried from and the queries are not, with the sequence's dimension in each."""
        return self._not_of_the_query(history(self.key, self.key_axis))

    @cached_property
    def value_history(self) -> dict[Node, int | None]:
        """What the values are carried from and the queries are not, with the sequence's dimension in each."""
        return self._not_of_the_query(history(self.value, self.value_axis))

    def _not_of_the_query(self, found: dict[Node, int | None]) -> dict[Node, int | None]:
        return {node: axis for node, axis in found.items() if node not in self.query_history}

    def describe(self) -> str:
        """Return a line for people."""
        how = "spelled out" if self.softmax is not None else "one operator"
        order = "causal" if self.causal else "masked or biased" if self.biases else "unmasked"
        return f"attention, {how}: {self.query_length} queries over {self.key_length} keys, {order}"


def find_attentions(gm: GraphModule, origins: Origins) -> tuple[Attention, ...]:
    """Return the attentions of a graph, in graph order of where each begins to mix values."""
    placeholders = gm.graph.find_nodes(op="placeholder")
    return tuple(_attentions(gm, frozenset(placeholders[position] for position in origins.buffers)))


def attention_facts(attentions: tuple[Attention, ...]) -> dict[Node, Facts]:
    """Return a line of evidence for each attention; what it means is for later passes."""
    return {attention.node: Facts(evidence=(attention.describe(),)) for attention in attentions}


def _attentions(gm: GraphModule, buffers: frozenset[Node]) -> Iterator[Attention]:
    for node in gm.graph.nodes:
        if is_attention(node):
            yield _whole(node, buffers)
        elif node.target in SOFTMAXES and (spelled := read_spelled_attention(node)):
            yield _spelled(spelled, buffers)


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


def _spelled(found: SpelledAttention, buffers: frozenset[Node]) -> Attention:
    causal = any(is_causal(bias, buffers) for bias in found.biases)
    lengths = length_of(found.softmax, -2), length_of(found.key, found.key_axis)
    return Attention(
        found.product, found.query, found.key, found.value, found.key_axis, found.value_axis,
        *lengths, found.biases, causal, found.softmax,
    )  # fmt: skip


def _named_arguments(node: Node) -> dict[str, Any]:
    """Return the arguments of an attention kept as one operator, by the names of its schema."""
    target = node.target
    if not isinstance(target, OpOverload):
        target = aten._scaled_dot_product_flash_attention_for_cpu.default  # what the portable operator stands for
    return {**dict(zip(read_schema(target).names, node.args, strict=False)), **node.kwargs}
