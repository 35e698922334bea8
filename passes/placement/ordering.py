"""What a graph must do in its own order: writes into memory that others read, and draws of random numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch.fx import GraphModule, Node

from dynamo_genie.passes.graphs.graph_view import is_attention
from dynamo_genie.torch_internals.operators import OpOverload


@dataclass(frozen=True)
class Ordering:
    """What data flow alone does not say.

    Attributes:
        roots: For each node, the inputs, constants or calls whose memory its value is a view of; itself if of none.
        written: Roots that some node writes into, each with its writers.
        before: (earlier, later): must run in this order, wherever they run.
        together: Must run in one program: what is written is seen by those only who share the memory.
    """

    roots: dict[Node, tuple[Node, ...]]
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
    before: list[tuple[Node, Node]] = list(pairwise(filter(draws_random_numbers, gm.graph.nodes)))
    together: list[tuple[Node, Node]] = []
    for root, accesses in _accesses(gm, roots, written).items():
        _order(root, accesses, written[root], before, together)
    return Ordering(roots, {root: tuple(writers) for root, writers in written.items()}, tuple(before), tuple(together))


def draws_random_numbers(node: Node) -> bool:
    """Say whether running a node draws from a random generator; attention kept whole never does, it has no dropout."""
    if not isinstance(node.target, OpOverload) or is_attention(node):
        return False
    return torch.Tag.nondeterministic_seeded in node.target.tags


def is_view(node: Node) -> bool:
    """Say whether a node only arranges the memory of its argument anew, without writing to it."""
    aliases = [formal.alias_info for formal, _ in _arguments(node) if formal.alias_info is not None]
    return bool(aliases) and not any(alias.is_write for alias in aliases)


def _find_roots(gm: GraphModule) -> dict[Node, tuple[Node, ...]]:
    roots: dict[Node, tuple[Node, ...]] = {}
    for node in gm.graph.nodes:
        found: dict[Node, None] = {}
        if isinstance(node.target, OpOverload):
            sources = [actual for formal, actual in _arguments(node) if formal.alias_info is not None]
        else:  # an element of a tuple of views
            sources = [node.args[0]] if node.op == "call_function" and _is_getitem(node) else []
        for source in _nodes_in(sources):
            found.update(dict.fromkeys(roots[source]))
        roots[node] = tuple(found) or (node,)
    return roots


def _written_by(node: Node, roots: dict[Node, tuple[Node, ...]]) -> tuple[Node, ...]:
    targets = [actual for formal, actual in _arguments(node) if formal.alias_info and formal.alias_info.is_write]
    return tuple(dict.fromkeys(root for target in _nodes_in(targets) for root in roots[target]))


def _accesses(
    gm: GraphModule, roots: dict[Node, tuple[Node, ...]], written: dict[Node, list[Node]]
) -> dict[Node, list[Node]]:
    """Return, for each written root, the nodes that look at its contents or change them, in order."""
    accesses: dict[Node, list[Node]] = {root: [] for root in written}
    for node in gm.graph.nodes if written else ():
        if node.op == "call_function" and not is_view(node) and not _is_getitem(node):
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


def _arguments(node: Node) -> Iterator[tuple[Any, Any]]:
    """Yield each formal argument of an operator with what it is called with."""
    if isinstance(node.target, OpOverload):
        for position, formal in enumerate(node.target._schema.arguments):
            actual = node.args[position] if position < len(node.args) else node.kwargs.get(formal.name)
            yield formal, actual


def _nodes_in(values: Any) -> Iterator[Node]:
    for value in values:
        if isinstance(value, Node):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _nodes_in(value)


def _is_getitem(node: Node) -> bool:
    return getattr(node.target, "__name__", "") == "getitem"
