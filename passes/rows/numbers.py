"""A graph with numbers for its symbolic sizes, as a call's arguments give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy
import torch
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_aggregate

from dynamo_genie.passes.rows.fakes import Fakes
from dynamo_genie.passes.rows.template import CannotCut

_SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)


def has_symbols(gm: GraphModule) -> bool:
    """Say whether some size in a graph is symbolic."""
    return any(_is_symbolic(node.meta.get("val")) for node in gm.graph.nodes)


def with_numbers(gm: GraphModule, args: Sequence[Any]) -> GraphModule:
    """Return a graph with the sizes of a call; its inputs and results are those of `gm`.

    Args:
        args: The arguments of the call, in the order of the placeholders.

    Raises:
        CannotCut: A size depends on data.
    """
    known = _symbols(gm.graph.find_nodes(op="placeholder"), args)
    fakes, graph = Fakes(), Graph()
    copies: dict[Node, Any] = {}
    for node in gm.graph.nodes:
        value = node.meta.get("val")
        if node.op not in ("placeholder", "output") and isinstance(value, _SYMBOLIC):
            copies[node] = _number(value, known)
            continue
        copied_args, kwargs = map_aggregate(
            (node.args, dict(node.kwargs)), lambda leaf: copies[leaf] if isinstance(leaf, Node) else leaf
        )
        new = graph.create_node(node.op, node.target, copied_args, kwargs, name=node.name)
        new.meta = dict(node.meta)
        if node.op != "output" and value is not None:
            new.meta["val"] = _numbered(value, known, fakes)
        copies[node] = _number(value, known) if isinstance(value, _SYMBOLIC) else new
    graph.lint()
    return GraphModule(gm, graph)


def _is_symbolic(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return any(isinstance(size, torch.SymInt) for size in (*value.shape, *value.stride()))
    return isinstance(value, _SYMBOLIC)


def _symbols(placeholders: Sequence[Node], args: Sequence[Any]) -> dict[sympy.Symbol, sympy.Number]:
    """Return the number that a call gives for each symbol."""
    found: dict[sympy.Symbol, sympy.Number] = {}
    for node, arg in zip(placeholders, args, strict=True):
        value = node.meta.get("val")
        pairs = zip(value.shape, arg.shape, strict=True) if isinstance(value, torch.Tensor) else [(value, arg)]
        for symbolic, number in pairs:
            if isinstance(symbolic, _SYMBOLIC) and symbolic.node.expr.is_Symbol:
                found[symbolic.node.expr] = sympy.Number(number)
    return found


def _number(value: Any, known: dict[sympy.Symbol, sympy.Number]) -> Any:
    if not isinstance(value, _SYMBOLIC):
        return value
    found = value.node.expr.xreplace(known)
    if isinstance(found, sympy.logic.boolalg.BooleanAtom):
        return bool(found)
    if not found.is_number:
        raise CannotCut("a size depends on data")
    return int(found) if isinstance(value, torch.SymInt) else float(found)


def _numbered(value: Any, known: dict[sympy.Symbol, sympy.Number], fakes: Fakes) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_numbered(each, known, fakes) for each in value)
    if isinstance(value, torch.Tensor) and _is_symbolic(value):
        shape = [_number(size, known) for size in value.shape]
        return fakes.strided(value, shape, [_number(step, known) for step in value.stride()])
    return value if isinstance(value, torch.Tensor) else _number(value, known)
