"""Borders between client and daemons: what a side that reads a value makes for itself, and what it must be given.

Numbers and views are made by whoever reads them: a size costs nothing, and a view made on the side where its memory is
shares that memory. Everything else has one maker, and crosses.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch.fx import GraphModule, Node

from dynamo_genie.passes.graphs.graph_view import is_getitem, is_view, shared_by
from dynamo_genie.torch_internals.operators import OpOverload

aten = torch.ops.aten

NUMBERS = (bool, int, float, torch.SymInt, torch.SymFloat, torch.SymBool)

_MEASURES: frozenset[Any] = frozenset(
    {aten.sym_size.int, aten.sym_stride.int, aten.sym_numel.default, aten.sym_storage_offset.default}
)


class Borders:
    """What crosses between the sides of a graph, for a client that has the inputs `local`."""

    def __init__(self, gm: GraphModule, local: Collection[Node]) -> None:
        self.local = frozenset(local)
        self._symbols = _symbols_of_inputs(gm)
        self._bases: dict[Node, Node] = {}
        for node in gm.graph.nodes:
            self._bases[node] = self._find_base(node)

    def base(self, node: Node) -> Node:
        """Return the value whose memory a view shows; of anything else, itself."""
        return self._bases[node]

    def is_told(self, node: Node) -> bool:
        """Say whether a node is a size (or stride) that the arguments of a call tell, whoever has the tensor."""
        if node.target not in _MEASURES:
            return False
        value = node.meta.get("val")
        return isinstance(value, int) or (
            isinstance(value, torch.SymInt) and value.node.expr.free_symbols <= self._symbols
        )

    def is_made_by_readers(self, node: Node, client: Collection[Node]) -> bool:
        """Say whether a call belongs to no side: a number made of numbers and sizes, a view of what both sides have."""
        if node.op != "call_function" or node in client or self.is_told(node):
            return False
        if is_number(node):
            return node.target in _MEASURES or not any(is_tensor(source) for source in node.all_input_nodes)
        base = self._bases[node]
        return base is not node and (base in client or base in self.local or base.op == "get_attr")

    def needs(self, nodes: Iterable[Node], client: Collection[Node]) -> tuple[dict[Node, None], dict[Node, None]]:
        """Return what a side makes for itself so that it can run `nodes`, and what it must be given."""
        made: dict[Node, None] = {}
        given: dict[Node, None] = {}
        pending = [source for node in nodes for source in node.all_input_nodes]
        while pending:
            node = pending.pop()
            if node.op == "get_attr" or node in made:
                continue
            if self.is_made_by_readers(node, client):
                made[node] = None
                pending.extend(node.all_input_nodes)
            else:
                given[node] = None
        return made, given

    def _find_base(self, node: Node) -> Node:
        if is_getitem(node):
            source = node.args[0]
            assert isinstance(source, Node)
            return self._bases[source] if self._bases[source] is not source else node
        sources = list(shared_by(node)) if is_view(node) else []
        return self._bases[sources[0]] if len(sources) == 1 else node


def is_number(node: Node) -> bool:
    """Say whether a node's value is a plain number, known or symbolic."""
    return isinstance(node.meta.get("val"), NUMBERS)


def is_tensor(node: Node) -> bool:
    """Say whether a node's value is one tensor."""
    return node.op == "get_attr" or isinstance(node.meta.get("val"), torch.Tensor)


def is_opaque(node: Node) -> bool:
    """Say whether a call may do anything: an operator of others, or one that runs graphs inside."""
    target = node.target
    return not isinstance(target, OpOverload) or target.namespace not in ("aten", "prims")


def _symbols_of_inputs(gm: GraphModule) -> frozenset[Any]:
    """Return the symbols that the arguments of a call tell."""
    found: set[Any] = set()
    for node in gm.graph.find_nodes(op="placeholder"):
        value = node.meta.get("val")
        sizes = value.shape if isinstance(value, torch.Tensor) else (value,)
        found.update(
            size.node.expr
            for size in sizes
            if isinstance(size, torch.SymInt | torch.SymFloat) and size.node.expr.is_Symbol
        )
    return frozenset(found)
