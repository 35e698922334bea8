"""Takes flex attention apart: scores, what `score_mod` and `mask_mod` make of them, softmax, product.

Before::

    %three = flex_attention(%q, %k, %v, sdpa_score0, (..., sdpa_mask0), 0.25, {...}, (%bias,), ())
    %out = getitem(%three, 0)

After::

    %scores = aten.bmm.default(...)
    ...
    %out = aten.copy_.default(%laid_out_like_q, ...)

It is the form that PyTorch itself has for a CPU, traced: the same operators in the same order, with the loops of
`vmap` resolved, so that every daemon computes what eager PyTorch computes on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg
from torch.fx.passes.infra.pass_base import PassResult

from dynamo_genie.passes.graphs.graph_view import all_graphs, nodes_in
from dynamo_genie.passes.rewrites.inlining import inline_graph, replace_results
from dynamo_genie.torch_internals.higher_order import dense_form, trace
from dynamo_genie.torch_internals.operators import OperatorBase

_FLEX = (torch.ops.higher_order.flex_attention, torch.ops.higher_order.flex_attention_backward)

Decompositions = Callable[[], Mapping[OperatorBase, Callable[..., Any]]]


def expand_flex_attention(gm: GraphModule, decompositions: Decompositions) -> PassResult:
    """Rewrite `gm` in place so that no flex attention is left in it.

    Args:
        gm: The graph.
        decompositions: Those that the graph was captured with.
    """
    modified = False
    for graph_module in list(all_graphs(gm)):
        found = [node for target in _FLEX for node in graph_module.graph.find_nodes(op="call_function", target=target)]
        for node in found:
            _expand(graph_module, node, decompositions())
        if found:
            graph_module.graph.lint()
            graph_module.recompile()
            modified = True
    return PassResult(gm, modified)


def _expand(gm: GraphModule, node: Node, decompositions: Mapping[OperatorBase, Callable[..., Any]]) -> None:
    target: Any = node.target
    named = dict.fromkeys(nodes_in(node.args))
    graphs = {it: held for it in named if isinstance(held := _held(gm, it), GraphModule)}
    values = [it for it in named if it not in graphs]

    def form(*given: Any) -> Any:
        stands_for = {**dict(zip(values, given, strict=True)), **graphs}
        return dense_form(target)(*map_arg(node.args, stands_for.__getitem__))

    fakes = [it.meta["val"] for it in values]
    traced = trace(form, fakes, decompositions)
    for inner in traced.graph.nodes:
        inner.meta["stack_trace"] = node.meta.get("stack_trace")
    with gm.graph.inserting_before(node):
        results = inline_graph(gm, traced, list(values))
    replace_results(node, results)
    for unused in graphs:
        if not unused.users:
            gm.graph.erase_node(unused)


def _held(gm: GraphModule, node: Node) -> Any:
    return attrgetter(str(node.target))(gm) if node.op == "get_attr" else None
