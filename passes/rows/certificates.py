"""Certificates: graphs that compare, on the device where they run, what kernels give for pieces and for the whole.

A kernel may round differently for few rows than for many: another blocking, a vectorized loop that ends elsewhere.
Which one does depends on the processor, the library, the number of threads and the shapes, so it is tried, with these
very shapes, and with the operators of the graph one by one. How a kernel rounds does not depend on the values.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_aggregate

from dynamo_genie.passes.graphs.graph_view import is_getitem, is_view, operator_name
from dynamo_genie.passes.rows import lookups, movement
from dynamo_genie.passes.rows.analysis import RowAnalysis, find_rows
from dynamo_genie.passes.rows.cut_rows import cut_rows
from dynamo_genie.passes.rows.fakes import Fakes
from dynamo_genie.passes.rows.pieces import Piece
from dynamo_genie.passes.rows.places import rounds_by_place
from dynamo_genie.passes.rows.rules import RULES
from dynamo_genie.passes.rows.template import Axis, CausalMask, Prefix, Rows

aten = torch.ops.aten

_COPIES = frozenset(
    {
        lookups.embedding, lookups.index, lookups.index_select, lookups.gather, movement.cat, movement.stack,
        movement.other_dims, movement.pad,
    }
)  # fmt: skip
"""Rules of operators that compute nothing: what they return is what they were given."""

DRAWS = 4
"""Sets of numbers for kernels that round some entries otherwise than others: few are, and of those not each differs."""

_MODULUS = 65_521  # a prime: neighbours differ, and int32 holds its products with the multiplier
_MULTIPLIER = 30_011
_STEP = 7_919


@dataclass(frozen=True)
class ComparedKernel:
    """A call of an operator, for all rows and for each piece, by all that its bits may depend on.

    Attributes:
        text: Operator, shapes, strides, dtypes, numbers and pieces; two calls of one text give the same bits.
        node: A call of the graph that has it.
    """

    text: str
    node: Node


def kernels_of(analysis: RowAnalysis, pieces: Sequence[Piece]) -> tuple[ComparedKernel, ...]:
    """Return the kernels on which the bits of a graph in pieces depend, each once."""
    ends = ",".join(str(piece.end) for piece in pieces)
    found: dict[str, ComparedKernel] = {}
    for node, template in analysis.found.items():
        if not (template.arranges or _copies(node)):
            text = f"{operator_name(node)} {_signature((template.args, dict(template.kwargs)))} at {ends}"
            found.setdefault(text, ComparedKernel(text, node))
    return tuple(found.values())


def _copies(node: Node) -> bool:
    return is_getitem(node) or is_view(node) or RULES.get(node.target) in _COPIES


def _signature(value: Any) -> str:
    """Return the text of an argument; of a tensor, all but its values."""
    if isinstance(value, Rows | Prefix):
        return f"{type(value).__name__}({_layout(value.node)}, {value.axis})"
    if isinstance(value, Node):
        return _layout(value)
    if isinstance(value, CausalMask):
        return f"causal({value.like.meta['val'].dtype})"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_signature, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {_signature(each)}' for name, each in sorted(value.items()))}}}"
    return str(value)


def _layout(node: Node) -> str:
    value = node.meta["val"]
    return f"{value.dtype}{list(value.shape)}{list(value.stride())}"


def comparison(kernels: Sequence[ComparedKernel], analysis: RowAnalysis, pieces: Sequence[Piece]) -> GraphModule:
    """Return a graph without inputs that says of each kernel whether pieces give the bits of the whole.

    Its results are one boolean tensor for each kernel.
    """
    graph = Graph()
    fakes = Fakes()
    numbers = _Numbers(graph, fakes, [kernel.node for kernel in kernels])
    results = []
    for kernel in kernels:
        alone, seeds = _alone(kernel.node, analysis)
        cut = cut_rows(alone, find_rows(alone, seeds, analysis.rows), pieces)
        pairs: list[tuple[Node, Node]] = []
        for draw in range(DRAWS if rounds_by_place(kernel.node) else 1):
            inputs = {
                node.name: numbers.like(node.meta["val"], i, draw)
                for i, node in enumerate(alone.graph.find_nodes(op="placeholder"))
            }
            pairs += zip(_inline(graph, alone, inputs), _inline(graph, cut.gm, inputs), strict=True)
        results.append(_all_equal(graph, fakes, pairs))
    graph.output(tuple(results))
    graph.lint()
    return GraphModule({}, graph)


def _alone(node: Node, analysis: RowAnalysis) -> tuple[GraphModule, dict[Node, Axis]]:
    """Return a graph of one call, its tensors as inputs, and which of those have rows."""
    graph = Graph()
    inputs: dict[Node, Node] = {}
    seeds: dict[Node, Axis] = {}

    def stand_in(leaf: Any) -> Any:
        if isinstance(leaf, Rows | Prefix):
            new = stand_in(leaf.node)
            assert leaf.axis is not None
            seeds[new] = leaf.axis
            return new
        if isinstance(leaf, Node):
            if leaf not in inputs:
                inputs[leaf] = graph.placeholder(f"input_{len(inputs)}")
                inputs[leaf].meta["val"] = leaf.meta["val"]
            return inputs[leaf]
        return leaf

    template = analysis.found[node]
    map_aggregate((template.args, dict(template.kwargs)), stand_in)
    args, kwargs = map_aggregate((node.args, dict(node.kwargs)), stand_in)
    call = graph.call_function(node.target, args, kwargs)  # type: ignore[arg-type]
    call.meta["val"] = node.meta["val"]
    graph.output(tuple(_tensors(graph, call)))
    return GraphModule({}, graph), seeds


def _tensors(graph: Graph, call: Node) -> Iterator[Node]:
    """Yield the tensors that a call makes."""
    value = call.meta["val"]
    if isinstance(value, torch.Tensor):
        yield call
        return
    for position, each in enumerate(value):
        if isinstance(each, torch.Tensor):
            part = graph.call_function(operator.getitem, (call, position))
            part.meta["val"] = each
            yield part


def _inline(graph: Graph, gm: GraphModule, inputs: Mapping[str, Node]) -> list[Node]:
    """Copy a graph into another one; return what it returns."""
    copies: dict[Node, Node] = {}
    for node in gm.graph.nodes:
        if node.op == "placeholder":
            copies[node] = inputs[node.name]
        elif node.op == "call_function":
            copies[node] = graph.node_copy(node, copies.__getitem__)
    returned: Any = gm.graph.output_node().args[0]
    return [copies[node] for node in returned]


def _all_equal(graph: Graph, fakes: Fakes, pairs: Sequence[tuple[Node, Node]]) -> Node:
    """Compare values, of which two are the same if neither is a number."""

    def boolean(target: Any, *args: Node) -> Node:
        node = graph.call_function(target, args)
        like = args[0].meta["val"]
        node.meta["val"] = fakes.dense(like, () if target is aten.all.default else like.shape, torch.bool)
        return node

    found: Node | None = None
    for one, other in pairs:
        neither = boolean(
            aten.logical_and.default, boolean(aten.ne.Tensor, one, one), boolean(aten.ne.Tensor, other, other)
        )
        same = boolean(aten.logical_or.default, boolean(aten.eq.Tensor, one, other), neither)
        here = boolean(aten.all.default, same)
        found = here if found is None else boolean(aten.logical_and.default, found, here)
    assert found is not None
    return found


class _Numbers:
    """Numbers that look random, made in the graph once and read from different places by each input."""

    def __init__(self, graph: Graph, fakes: Fakes, nodes: Sequence[Node]) -> None:
        self._graph = graph
        self._fakes = fakes
        sizes = [_span(n.meta["val"]) for node in nodes for n in node.all_input_nodes if _is_tensor(n)]
        self._size = max(sizes, default=1) + 64 * 16 + DRAWS * _STEP
        self._like = next(n.meta["val"] for node in nodes for n in node.all_input_nodes if _is_tensor(n))
        self._made: dict[torch.dtype, Node] = {}

    def like(self, value: torch.Tensor, number: int, draw: int = 0) -> Node:
        """Return an input of the layout of `value`, another one for each `number` and each `draw`."""
        source = self._of(value.dtype)
        node = self._graph.call_function(
            aten.as_strided.default,
            (source, list(value.shape), list(value.stride()), 64 * (number % 16) + draw * _STEP),
        )
        node.meta["val"] = value
        return node

    def _of(self, dtype: torch.dtype) -> Node:
        if dtype not in self._made:
            count = self._call(aten.arange.default, (self._size,), dtype=torch.int32)
            mixed = self._call(aten.remainder.Scalar, (self._call(aten.mul.Tensor, (count, _MULTIPLIER)), _MODULUS))
            made = self._call(aten._to_copy.default, (mixed,), dtype=torch.float32)
            made = self._call(aten.sub.Tensor, (self._call(aten.div.Tensor, (made, _MODULUS / 4)), 2.0))
            if dtype is torch.bool:
                made = self._call(aten.gt.Scalar, (made, 0.0))
            elif not dtype.is_floating_point:
                made = self._call(aten._to_copy.default, (self._call(aten.abs.default, (made,)),), dtype=dtype)
            elif dtype is not torch.float32:
                made = self._call(aten._to_copy.default, (made,), dtype=dtype)
            self._made[dtype] = made
        return self._made[dtype]

    def _call(self, target: Any, args: tuple[Any, ...], **kwargs: Any) -> Node:
        node = self._graph.call_function(target, args, kwargs)
        node.meta["val"] = self._fakes.dense(self._like, (self._size,), kwargs.get("dtype", torch.float32))
        return node


def _span(value: torch.Tensor) -> int:
    """Return how many entries lie between the first and the last of a tensor, both in it."""
    if not math.prod(value.shape):
        return 1
    return 1 + sum((size - 1) * step for size, step in zip(value.shape, value.stride(), strict=True))


def _is_tensor(node: Node) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor)
