"""Ordering by effects: writes into memory that others read, and draws of random numbers."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise

from torch.fx import GraphModule, Node

from dynamo_genie.passes.graphs.graph_view import draws, is_getitem, is_view, nodes_in, shared_by, written_by


@dataclass(frozen=True)
class Ordering:
    """The ordering of nodes that data flow alone does not say.

    Attributes:
        written: Roots that some node writes into, each with its writers.
        before: (earlier, later): must run in this order, wherever they run.
        together: Must run in one program: what is written is seen by those only who share the memory.
    """

    written: dict[Node, tuple[Node, ...]]
    before: tuple[tuple[Node, Node], ...]
    together: tuple[tuple[Node, Node], ...]


def find_ordering(gm: GraphModule) -> Ordering:
    """Return the order that effects impose on `gm`."""
    roots = _find_roots(gm)
    written: dict[Node, list[Node]] = defaultdict(list)
    for node in gm.graph.nodes:
        for root in _written_by(node, roots):
            written[root].append(node)
    before: list[tuple[Node, Node]] = list(pairwise(node for node in gm.graph.nodes if draws(node)))
    together: list[tuple[Node, Node]] = []
    for root, accesses in _accesses(gm, roots, written).items():
        _order(root, accesses, written[root], before, together)
    return Ordering({root: tuple(writers) for root, writers in written.items()}, tuple(before), tuple(together))


def writes_inputs(gm: GraphModule) -> bool:
    """Say whether `gm` writes into one of its inputs."""
    return any(root.op == "placeholder" for root in find_ordering(gm).written)


def _find_roots(gm: GraphModule) -> dict[Node, tuple[Node, ...]]:
    """Return, for each node, the inputs, constants or calls whose memory its value is a view of; itself if of none."""
    roots: dict[Node, tuple[Node, ...]] = {}
    for node in gm.graph.nodes:
        sources = nodes_in(node.args[0]) if is_getitem(node) else shared_by(node)  # an element of a tuple of views
        roots[node] = tuple(dict.fromkeys(root for source in sources for root in roots[source])) or (node,)
    return roots


def _written_by(node: Node, roots: dict[Node, tuple[Node, ...]]) -> tuple[Node, ...]:
    return tuple(dict.fromkeys(root for target in written_by(node) for root in roots[target]))


def _accesses(
    gm: GraphModule, roots: dict[Node, tuple[Node, ...]], written: dict[Node, list[Node]]
) -> dict[Node, list[Node]]:
    """Return, for each written root, the nodes that look at its contents or change them, in order."""
    accesses: dict[Node, list[Node]] = {root: [] for root in written}
    for node in gm.graph.nodes if written else ():
        if node.op == "call_function" and not is_view(node) and not is_getitem(node):
            seen = dict.fromkeys(root for source in node.all_input_nodes for root in roots[source])
            for root in seen:
                if root in accesses:
                    accesses[root].append(node)
    return accesses


def _order(
    root: Node,
    accesses: list[Node],
    writers: list[Node],
    before: list[tuple[Node, Node]],
    together: list[tuple[Node, Node]],
) -> None:
    """Readers of the old contents come before the first writer; everybody after it stays with it."""
    first = writers[0]
    place = accesses.index(first)
    before.extend((reader, first) for reader in accesses[:place])
    before.extend(pairwise(accesses[place:]))
    together.extend((first, later) for later in accesses[place + 1 :])
    if root.op not in ("placeholder", "get_attr"):
        together.append((root, first))
