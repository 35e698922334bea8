"""Remote tensors as operands of higher-order operators (branches, loops, flex attention).

PyTorch dispatches those by themselves: tensor subclasses are refused where no rule is registered for them. While a
graph is captured, a view of a remote operand is an ordinary traced tensor; outside compiled code, the operator is what
its dense form is, operator by operator, so that a branch reads its truth value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

from dynamo_genie.tensor.remote_tensor import RemoteTensor
from dynamo_genie.torch_internals.higher_order import dense_form
from dynamo_genie.torch_internals.operators import HigherOrderOperator

_RUN_DENSELY = tuple(
    getattr(torch.ops.higher_order, name)
    for name in "cond while_loop scan map_impl invoke_subgraph flex_attention".split()
)


def view_remote_operands(gm: GraphModule, example_inputs: Sequence[Any]) -> None:
    """Rewrite a Dynamo graph in place so that its higher-order operators take views of remote inputs.

    Before::

        %out = cond(%pred, true_graph, false_graph, (%remote,))

    After::

        %alias = aten.alias.default(%remote)
        %out = cond(%pred, true_graph, false_graph, (%alias,))
    """
    placeholders = gm.graph.find_nodes(op="placeholder")
    remote = {n for n, value in zip(placeholders, example_inputs, strict=False) if isinstance(value, RemoteTensor)}
    found = [n for n in gm.graph.nodes if isinstance(n.target, HigherOrderOperator)] if remote else []
    for node in found:
        with gm.graph.inserting_before(node):
            views = {it: _view(gm, it, node) for it in node.all_input_nodes if it in remote}
        for operand, view in views.items():
            node.replace_input_with(operand, view)
    if found:
        gm.recompile()


def _view(gm: GraphModule, remote: Node, reader: Node) -> Node:
    view = gm.graph.call_function(torch.ops.aten.alias.default, (remote,))
    view.meta = {**remote.meta, "stack_trace": reader.meta.get("stack_trace")}
    view.meta.pop("grapharg", None)
    return view


def _register() -> None:
    for operator in _RUN_DENSELY:
        operator.py_impl(RemoteTensor)(dense_form(operator))


_register()
