"""Output shapes of a compiled graph, as functions of the call's arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from types import MappingProxyType
from typing import Any, TypeAlias

import sympy
import torch
from torch.fx import GraphModule, Node

from dynamo_genie.torch_internals.guarded_memory import CPU

Extents: TypeAlias = tuple[int, ...]

# What torch's own sympy functions mean for numbers; lambdify prints them by these names.
_FUNCTIONS = MappingProxyType(
    {
        "FloorDiv": lambda a, b: a // b,
        "CleanDiv": lambda a, b: a // b,
        "CeilDiv": lambda a, b: -(-a // b),
        "CeilToInt": math.ceil,
        "FloorToInt": math.floor,
        "TruncToInt": math.trunc,
        "RoundToInt": round,
        "IntTrueDiv": lambda a, b: a / b,
        "FloatTrueDiv": lambda a, b: a / b,
        "PowByNatural": pow,
        "FloatPow": pow,
        "ToFloat": float,
        "Mod": lambda a, b: a % b,
        "PythonMod": lambda a, b: a % b,
        "ModularIndexing": lambda a, b, c: (a // b) % c,
        "Max": max,
        "Min": min,
        "Identity": lambda a: a,
    }
)


@dataclass(frozen=True)
class OutputMetadata:
    """Metadata of one output, as far as it is known when the graph is compiled.

    Attributes:
        dtype: None for an output that is a plain number or None.
        shape, stride: Where they do not depend on the call.
        value: A plain output that does not depend on the call.
        offset: Where in its memory it begins, in elements.
        device: What it claims to be on.
    """

    dtype: torch.dtype | None
    shape: Extents | None
    stride: Extents | None
    value: Any = None
    offset: int = 0
    device: torch.device = CPU


class OutputShapes:
    """Evaluates the symbolic sizes of outputs, once per call, from sizes and numbers of the call's arguments."""

    def __init__(self, placeholders: Sequence[Node], values: Sequence[Any]) -> None:
        sources = _symbol_sources(placeholders)
        expressions = [tuple(_expressions(value)) for value in values]
        self.outputs = tuple(_metadata(value) for value in values)
        unknown = [any(s not in sources for item in items for s in item.free_symbols) for items in expressions]
        self.depends_on_data = any(unknown)
        expressions = [() if skip else items for skip, items in zip(unknown, expressions, strict=True)]
        free = sorted({s for items in expressions for item in items for s in item.free_symbols}, key=str)
        self.depends_on_call = any(not item.is_number for items in expressions for item in items)
        found = [(output.dtype, output.device, items) for output, items in zip(self.outputs, expressions, strict=True)]
        unlike = list(dict.fromkeys(found))  # the caches of all layers have one shape: it is evaluated once
        self._which = [unlike.index(each) for each in found]
        self._symbolic = [bool(items) for items in expressions]
        self._first = [self.outputs[found.index(each)] for each in unlike]
        self._symbols = [sources[symbol] for symbol in free]
        self._evaluate: Callable[..., list[list[Any]]] = sympy.lambdify(
            free, [list(items) for *_, items in unlike], modules=[dict(_FUNCTIONS), "math"]
        )

    def evaluate(self, args: Sequence[Any]) -> Sequence[OutputMetadata]:
        """Return the outputs' metadata for a call with these arguments; sizes that depend on data stay None."""
        if not self.depends_on_call:
            return self.outputs
        sizes = self._evaluate(*[read(args) for read in self._symbols])
        resolved = [_resolve(output, found) for output, found in zip(self._first, sizes, strict=True)]
        return [
            resolved[which] if symbolic else output
            for which, symbolic, output in zip(self._which, self._symbolic, self.outputs, strict=True)
        ]


def shapes_of(gm: GraphModule) -> OutputShapes:
    """Return what tells the shapes of a graph's outputs for the arguments of a call."""
    outputs: Any = gm.graph.output_node().args[0]
    placeholders = gm.graph.find_nodes(op="placeholder")
    return OutputShapes(placeholders, [getattr(o, "meta", {}).get("val", o) for o in outputs])


def _metadata(value: Any) -> OutputMetadata:
    if isinstance(value, torch.Tensor):
        expressions = _expressions(value)
        if all(item.is_number for item in expressions):
            return _resolve(OutputMetadata(value.dtype, None, None, device=value.device), expressions)
        return OutputMetadata(value.dtype, None, None, device=value.device)
    if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        [expression] = _expressions(value)
        return OutputMetadata(None, None, None, _number(value, expression) if expression.is_number else None)
    return OutputMetadata(None, None, None, value)


def _number(value: torch.SymInt | torch.SymFloat | torch.SymBool, expression: Any) -> int | float:
    """Return what a symbolic number has come down to; a symbolic truth value is evaluated with every call."""
    return int(expression) if isinstance(value, torch.SymInt) else float(expression)


def _resolve(output: OutputMetadata, found: list[Any]) -> OutputMetadata:
    if not found:
        return output
    if output.dtype is None:
        return OutputMetadata(None, None, None, found[0])
    sizes = tuple(map(int, found))
    rank = len(sizes) // 2
    return OutputMetadata(output.dtype, sizes[:rank], sizes[rank:-1], None, sizes[-1], output.device)


def _expressions(value: Any) -> list[Any]:
    if isinstance(value, torch.Tensor):
        return [_expression(extent) for extent in (*value.shape, *value.stride(), value.storage_offset())]
    if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        return [_expression(value)]
    return []


def _expression(extent: Any) -> Any:
    if isinstance(extent, torch.SymInt | torch.SymFloat | torch.SymBool):
        return extent.node.expr
    return sympy.Integer(extent)


def _symbol_sources(placeholders: Sequence[Node]) -> dict[Any, Callable[[Sequence[Any]], Any]]:
    """Map each symbol to a function that reads it from the arguments of a call."""
    sources: dict[Any, Callable[[Sequence[Any]], Any]] = {}
    for position, node in enumerate(placeholders):
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt | torch.SymFloat) and value.node.expr.is_Symbol:
            sources[value.node.expr] = itemgetter(position)
        elif isinstance(value, torch.Tensor):
            for dim, size in enumerate(value.shape):
                expression = _expression(size)
                if expression.is_Symbol and expression not in sources:
                    sources[expression] = partial(_size, position, dim)
    return sources


def _size(position: int, dim: int, args: Sequence[Any]) -> Any:
    return args[position].shape[dim]
