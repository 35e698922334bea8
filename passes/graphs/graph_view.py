"""Questions about ATen graphs that several passes ask: what is a result, where was a value made, is it attention."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from dynamo_genie.passes.graphs.portable_operators import draws_random_numbers, portable_attention
from dynamo_genie.schemas import read_schema
from dynamo_genie.torch_internals.operators import HigherOrderOperator, OpOverload

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


def nodes_in(value: Any) -> Iterator[Node]:
    """Yield the graph values in an argument: itself, or those in a list of any depth."""
    if isinstance(value, Node):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from nodes_in(item)


def reached(starts: Iterable[Node], onwards: Callable[[Node], Iterable[Node]]) -> Iterator[Node]:
    """Yield some nodes and all to which `onwards` leads from them, nearest first, each once."""
    found = dict.fromkeys(starts)
    pending = list(found)
    for node in pending:  # grows on the way
        yield node
        new = dict.fromkeys(other for other in onwards(node) if other not in found)
        found.update(new)
        pending.extend(new)


def operator_name(node: Node) -> str:
    """Return the name of what a node calls; of an input or a constant, what it is called by."""
    return str(getattr(node.target, "__name__", node.target)) if callable(node.target) else str(node.target)


def shared_by(node: Node) -> Iterator[Node]:
    """Yield the arguments whose memory an operator writes into, or may return as its result's."""
    if isinstance(node.target, OpOverload):
        schema = read_schema(node.target)
        for place in schema.shares:
            yield from nodes_in(schema.argument(place, node.args, node.kwargs))


def written_by(node: Node) -> Iterator[Node]:
    """Yield the arguments that an operator writes into."""
    if isinstance(node.target, OpOverload):
        schema = read_schema(node.target)
        for place in schema.writes:
            yield from nodes_in(schema.argument(place, node.args, node.kwargs))


def all_graphs(gm: GraphModule) -> Iterator[GraphModule]:
    """Yield a graph and all that stand in it, for branches and loops."""
    return (module for module in gm.modules() if isinstance(module, GraphModule))


def value_of(node: Node) -> Any:
    """Return the fake value of a new node, from those of its arguments."""
    target: Any = node.target
    args, kwargs = map_arg((node.args, node.kwargs), lambda argument: argument.meta["val"])
    return target(*args, **kwargs)


def subgraphs(node: Node) -> Iterator[GraphModule]:
    """Yield the graphs that a branch or a loop runs, which its arguments name."""
    for argument in node.args if isinstance(node.target, HigherOrderOperator) else ():
        if isinstance(argument, Node) and argument.op == "get_attr":
            owner = node.graph.owning_module
            value = attrgetter(str(argument.target))(owner) if owner is not None else None
            if isinstance(value, GraphModule):
                yield value


def draws(node: Node) -> bool:
    """Say whether running a node draws random numbers, itself or in a graph that it runs."""
    return draws_random_numbers(node.target) or any(draws(inner) for gm in subgraphs(node) for inner in gm.graph.nodes)


def is_view(node: Node) -> bool:
    """Say whether a node only arranges the memory of its argument anew, without writing to it."""
    schema = read_schema(node.target) if isinstance(node.target, OpOverload) else None
    return schema is not None and bool(schema.shares) and not schema.writes


def is_getitem(node: Node) -> bool:
    """Say whether a node takes one of several results."""
    return node.op == "call_function" and node.target is operator.getitem


def origin(node: Node) -> Node:
    """Follow a value back through `RESHAPING` operators to where it was made."""
    while node.target in RESHAPING and isinstance(node.args[0], Node):
        node = node.args[0]
    return node


_ATTENTIONS: frozenset[Any] = frozenset(
    {
        aten.scaled_dot_product_attention.default, aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_efficient_attention.default, aten._scaled_dot_product_cudnn_attention.default,
        aten._scaled_dot_product_attention_math.default, aten._scaled_dot_product_flash_attention_for_cpu.default,
        aten._scaled_dot_product_fused_attention_overrideable.default, portable_attention,
    }
)  # fmt: skip


def is_attention(node: Node) -> bool:
    """Say whether a node is an attention kept as one operator."""
    return node.op == "call_function" and node.target in _ATTENTIONS
