"""Puts the calls of a repeated region (`torch.compiler.nested_compile_region`) where the region is called.

Before::

    %pair = invoke_subgraph(repeated_subgraph0, 'subgraph_0', %x, %w)
    %out = getitem(%pair, 0)

After, with the region's own calls::

    %mm = aten.mm.default(%x, %w)
    %sin = aten.sin.default(%mm)

so that passes see through it: caches are found in it, and grow in place.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.pass_base import PassResult

from dynamo_genie.passes.graphs.graph_view import all_graphs, is_getitem

_INVOKE = torch.ops.higher_order.invoke_subgraph


def inline_regions(gm: GraphModule) -> PassResult:
    """Rewrite `gm` in place so that it calls no region."""
    modified = False
    for graph_module in list(all_graphs(gm)):
        while calls := graph_module.graph.find_nodes(op="call_function", target=_INVOKE):
            for node in calls:  # a region may call others
                _inline(graph_module, node)
            graph_module.graph.lint()
            graph_module.recompile()
            modified = True
    return PassResult(gm, modified)


def _inline(gm: GraphModule, node: Node) -> None:
    region, _, *operands = node.args
    assert isinstance(region, Node)
    inner: GraphModule = attrgetter(str(region.target))(gm)
    with gm.graph.inserting_before(node):
        results = inline_graph(gm, inner, operands)
    replace_results(node, results)
    if not region.users:
        gm.graph.erase_node(region)


def inline_graph(gm: GraphModule, inner: GraphModule, operands: list[Any]) -> list[Any]:
    """Copy the calls of `inner` into the graph of `gm`, where new nodes go; return what stands for its results."""
    copies: dict[Node, Any] = dict(zip(inner.graph.find_nodes(op="placeholder"), operands, strict=True))
    for source in inner.graph.nodes:
        if source.op == "get_attr":
            copies[source] = _hold(gm, source, attrgetter(str(source.target))(inner))
        elif source.op not in ("placeholder", "output"):
            copies[source] = gm.graph.node_copy(source, lambda argument: copies[argument])
    returned: Any = inner.graph.output_node().args[0]
    flat = returned if isinstance(returned, (list, tuple)) else (returned,)
    return [copies[value] if isinstance(value, Node) else value for value in flat]


def _hold(gm: GraphModule, source: Node, value: Any) -> Node:
    """Let `gm` hold what an inlined graph held, under a name of its own; once for all calls of one region."""
    held = {id(it): name for name, it in vars(gm).items()} | {id(it): name for name, it in gm.named_children()}
    held |= {id(it): name for name, it in gm.named_buffers(recurse=False)}
    name = held.get(id(value), "")
    if not name:
        number = 0
        while hasattr(gm, name := f"_inlined_{str(source.target).replace('.', '_')}_{number}"):
            number += 1
        setattr(gm, name, value)
    node = gm.graph.create_node("get_attr", name)
    node.meta = dict(source.meta)
    return node


def replace_results(node: Node, results: list[Any]) -> None:
    """Let who took a result out of `node` have the value that stands for it, and drop the node."""
    for user in list(node.users):
        assert is_getitem(user)
        result = results[user.args[1]]  # type: ignore[index]
        if isinstance(result, Node) and result.op == "call_function" and "val" in user.meta:
            result.meta["val"] = user.meta["val"]  # in the sizes of this call
        user.replace_all_uses_with(result)
        node.graph.erase_node(user)
    node.graph.erase_node(node)
