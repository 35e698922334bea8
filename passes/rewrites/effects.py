"""Drops effect tokens, which order operators: a Program runs in order anyway.

Before::

    %token = call_function[target=prims._make_token.default]()
    %pair = call_function[target=with_effects](%token, aten._linalg_check_errors.default, %info, linalg.inv)
    %after = call_function[target=operator.getitem](%pair, 0)

After::

    %check = call_function[target=aten._linalg_check_errors.default](%info, linalg.inv)
"""

from __future__ import annotations

import operator

import torch
from torch.fx import Graph, GraphModule, Node
from torch.fx.passes.infra.pass_base import PassResult

from dynamo_genie.schemas import read_schema

_MAKE_TOKEN = torch.ops.prims._make_token.default
_SINK_TOKENS = torch.ops.prims._sink_tokens.default
_WITH_EFFECTS = torch.ops.higher_order.with_effects


def drop_effect_tokens(gm: GraphModule) -> PassResult:
    """Rewrite `gm` in place so that no token is left in it."""
    graph = gm.graph
    ordered = [node for node in graph.nodes if node.target is _WITH_EFFECTS]
    for node in ordered:
        _call_plainly(graph, node)
    for node in reversed(list(graph.nodes)):
        if node.target in (_SINK_TOKENS, _MAKE_TOKEN):
            graph.erase_node(node)
    if ordered:
        graph.lint()
        gm.recompile()
    return PassResult(gm, bool(ordered))


def _call_plainly(graph: Graph, node: Node) -> None:
    """Replace one `with_effects(token, op, *args)` by `op(*args)`; its results move one place down."""
    token, target, *args = node.args
    with graph.inserting_before(node):
        call = graph.call_function(target, tuple(args), dict(node.kwargs))  # type: ignore[arg-type]
        call.meta.update(node.meta)
    several = len(read_schema(target).results) > 1  # type: ignore[arg-type]
    for user in list(node.users):
        assert user.target is operator.getitem and isinstance(user.args[1], int)
        position = user.args[1]
        if position == 0:
            user.replace_all_uses_with(token)  # type: ignore[arg-type]
            graph.erase_node(user)
        elif several:
            user.args = (call, position - 1)
        else:
            user.replace_all_uses_with(call)
            graph.erase_node(user)
    if not node.users:
        graph.erase_node(node)
