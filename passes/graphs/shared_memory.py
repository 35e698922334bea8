"""Which results of a graph live in one memory."""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule, Node

from dynamo_genie.passes.graphs.graph_view import is_getitem, is_view, shared_by


def results_in_one_memory(gm: GraphModule) -> tuple[tuple[int, ...], ...]:
    """Return the positions of results that share memory which the graph made, for each such memory.

    From schemas alone: results of operators that may return a view of an argument, or write one and return it, share
    memory with it.
    """
    home: dict[Node, Node] = {}
    for node in gm.graph.nodes:
        source = node
        if node.op == "call_function":
            shared = [node.args[0]] if is_getitem(node) and _gives_views(node.args[0]) else shared_by(node)
            source = next((argument for argument in shared if isinstance(argument, Node)), node)
        home[node] = home.get(source, source)
    groups: dict[Node, list[int]] = {}
    returned: Any = gm.graph.output_node().args[0]
    for position, value in enumerate(returned):
        if isinstance(value, Node) and home[value].op != "placeholder":
            groups.setdefault(home[value], []).append(position)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def _gives_views(node: object) -> bool:
    return isinstance(node, Node) and is_view(node)
