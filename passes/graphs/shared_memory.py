"""Which values of a graph live in one memory."""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule, Node

from dynamo_genie.passes.graphs.graph_view import is_getitem, is_view, shared_by


def memory_of(node: Node) -> Node:
    """Follow a value back through views and writes to what has its memory.

    From schemas alone: results of operators that may return a view of an argument, or write one and return it, share
    memory with it.
    """
    while (shared := _shared(node)) is not None:
        node = shared
    return node


def results_in_one_memory(gm: GraphModule) -> tuple[tuple[int, ...], ...]:
    """Return the positions of results that share memory which the graph made, for each such memory."""
    groups: dict[Node, list[int]] = {}
    returned: Any = gm.graph.output_node().args[0]
    for position, value in enumerate(returned):
        if isinstance(value, Node) and (memory := memory_of(value)).op != "placeholder":
            groups.setdefault(memory, []).append(position)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def has_views_among_results(gm: GraphModule) -> bool:
    """Say whether two results, which are not the same value, share memory that the graph made."""
    returned: Any = gm.graph.output_node().args[0]
    return any(len({returned[position] for position in group}) > 1 for group in results_in_one_memory(gm))


def _shared(node: Node) -> Node | None:
    """Return the argument of its operator with which a value shares memory; of several results, the operator itself."""
    if not is_getitem(node):
        return next(shared_by(node), None)
    several = node.args[0]
    return several if isinstance(several, Node) and is_view(several) else None
