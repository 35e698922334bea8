"""What keeps a graph from being one Program: calls that no daemon runs, and values that cannot be sent."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from operator import attrgetter
from typing import Any

import torch
from torch.fx import GraphModule, Node

from dynamo_genie.errors import UnsupportedOperator
from dynamo_genie.lowering.arguments import HANDLED_BY_WORKER, lower_leaf, operator_key, source_line, unsupported
from dynamo_genie.passes.cutting.borders import NUMBERS
from dynamo_genie.passes.graphs.graph_view import is_getitem
from dynamo_genie.tensors import WIRE_DTYPES
from dynamo_genie.torch_internals.fake import unset_fake_temporarily


def find_unrunnable(gm: GraphModule) -> dict[Node, UnsupportedOperator] | None:
    """Return the calls that no daemon runs, with the reasons; None where nothing keeps `gm` from being a Program.

    What reads or makes a value that cannot be sent is such a call too.
    """
    with unset_fake_temporarily():
        stays = {node for node in gm.graph.nodes if node.op != "output" and not _travels(gm, node)}
        refused = ((node, _refusal(gm, node, stays)) for node in gm.graph.nodes)
        calls = {node: error for node, error in refused if error is not None}
    return calls if calls or stays else None


def _refusal(gm: GraphModule, node: Node, stays: Collection[Node]) -> UnsupportedOperator | None:
    if node.op in ("placeholder", "get_attr", "output") or is_getitem(node):
        return None
    line = source_line(node.stack_trace)
    try:
        if node.op != "call_function":
            raise unsupported(f"{node.op} {node.target!r}", line)
        key = operator_key(node.target, line)
        for argument in _leaves([*node.args, *(v for k, v in node.kwargs.items() if k not in HANDLED_BY_WORKER)]):
            lower_leaf(argument, key, line)
    except UnsupportedOperator as error:
        return error
    for inner in _graphs_of(gm, node):
        for reason in (find_unrunnable(inner) or {}).values():
            return reason
    odd = next((value for value in (*node.all_input_nodes, node) if value in stays), None)
    return None if odd is None else unsupported(f"operator {key} on a value that cannot be sent ({odd})", line)


def _travels(gm: GraphModule, node: Node) -> bool:
    """Whether a value, or each of several, may pass between client and daemon."""
    value = _held(gm, node) if node.op == "get_attr" else node.meta.get("val")
    if isinstance(value, torch.Tensor):
        return value.dtype in WIRE_DTYPES and value.layout is torch.strided and not value.is_quantized
    return value is None or isinstance(value, (*NUMBERS, list, tuple, dict, torch.nn.Module))


def _graphs_of(gm: GraphModule, node: Node) -> Iterator[GraphModule]:
    """Yield the graphs of branches and loops that a call runs."""
    for source in node.all_input_nodes:
        value = _held(gm, source) if source.op == "get_attr" else None
        if isinstance(value, GraphModule):
            yield value


def _held(gm: GraphModule, node: Node) -> Any:
    return attrgetter(str(node.target))(gm)


def _leaves(value: Any) -> Iterator[Any]:
    """Yield the arguments that are no values of the graph, those in lists included."""
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    elif not isinstance(value, Node):
        yield value
