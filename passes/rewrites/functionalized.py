"""Takes calls on copies apart: an operator that writes into its arguments, and has no functional form of its own.

Before::

    %pair = auto_functionalized_v2(cond, pred=%p, true_fn=..., operand0=%x, _operand1_base_index=0, _all_bases=[%buf])
    %out = getitem(%pair, 0)
    %written = getitem(%pair, 1)

After::

    %copy = aten.clone.default(%buf)
    %call = cond(%p, ..., (%x, %copy))
    %out = getitem(%call, 0)

and whoever read %written reads %copy. Operators that no daemon runs are left as they are.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.pass_base import PassResult

from dynamo_genie.passes.graphs.graph_view import all_graphs, value_of
from dynamo_genie.torch_internals.higher_order import ViewOfBase, mutable_call
from dynamo_genie.torch_internals.operators import OpOverload

aten = torch.ops.aten

_V2 = torch.ops.higher_order.auto_functionalized_v2


def call_on_copies(gm: GraphModule, runs: Callable[[Any], bool]) -> PassResult:
    """Rewrite `gm` in place so that an operator that a daemon runs is called itself, on copies of what it writes.

    Args:
        gm: The graph.
        runs: Says whether a daemon runs an operator.
    """
    modified = False
    for graph_module in all_graphs(gm):
        found = [node for node in graph_module.graph.find_nodes(op="call_function", target=_V2) if runs(node.args[0])]
        for node in found:
            _take_apart(graph_module, node)
        if found:
            graph_module.graph.lint()
            graph_module.recompile()
            modified = True
    return PassResult(gm, modified)


def _take_apart(gm: GraphModule, node: Node) -> None:
    target: Any = node.args[0]
    given = dict(node.kwargs)
    bases: Any = given.pop("_all_bases")
    schema = given.pop("_op_schema", None)
    by_name, arguments = mutable_call(target, _held(gm, schema), given)
    with gm.graph.inserting_before(node):
        copies = [_call(node, aten.clone.default, (base,), base.meta.get("val")) for base in bases]
        made = {name: _made(node, value, copies) for name, value in by_name.items()}
        args, kwargs = arguments(made)
        call = _call(node, target, args, None, dict(kwargs))
    n_results = len(node.meta["val"]) - len(copies)
    single = isinstance(target, OpOverload) and len(target._schema.returns) < 2
    call.meta["val"] = node.meta["val"][0] if single else tuple(node.meta["val"][:n_results])
    for user in list(node.users):
        assert user.target is operator.getitem
        assert isinstance(user.args[1], int)
        position = user.args[1]
        if position >= n_results:
            user.replace_all_uses_with(copies[position - n_results])
        elif single:
            user.replace_all_uses_with(call)
        else:
            user.args = (call, position)
    for unused in [*node.users, node, schema]:
        if isinstance(unused, Node) and not unused.users:
            gm.graph.erase_node(unused)


def _held(gm: GraphModule, attribute: Any) -> Any:
    return attrgetter(str(attribute.target))(gm) if isinstance(attribute, Node) else None


def _made(node: Node, value: Any, copies: list[Node]) -> Any:
    """Return what stands for an argument: itself, or a view of the copies."""
    if isinstance(value, list):
        return [_made(node, item, copies) for item in value]
    if not isinstance(value, ViewOfBase):
        return value
    base = copies[value.base]
    if value.operator is None:
        return base
    return _call(node, value.operator, (base, *value.args), None)


def _call(like: Node, target: Any, args: tuple[Any, ...], value: Any, kwargs: dict[str, Any] | None = None) -> Node:
    """Add a call with the source line of another node, and the fake value that it is said to have."""
    node = like.graph.call_function(target, args, kwargs)
    node.meta = {key: like.meta[key] for key in ("stack_trace", "nn_module_stack") if key in like.meta}
    if value is not None:
        node.meta["val"] = value
    elif isinstance(target, OpOverload):
        node.meta["val"] = value_of(node)
    return node
