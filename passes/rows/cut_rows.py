"""The graph in pieces: what is row-wise runs piece by piece, and what reads of it later sees the same values as before.

    before:  x -> linear -> attention (k, v of all rows) -> linear_1 -> slice of the last row -> head
    after:   x[0:512]    -> linear -> k0, v0; attention(q0, k0, v0)            -> linear_1
             x[512:1024] -> linear -> k1, v1; attention(q1, k0 + k1, v0 + v1)  -> linear_1 -> slice -> head

The new graph has the inputs and results of the old one, and can be placed, split and lowered as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_aggregate

from dynamo_genie.passes.rows.analysis import RowAnalysis
from dynamo_genie.passes.rows.new_calls import NewCalls, Origin
from dynamo_genie.passes.rows.pieces import Piece
from dynamo_genie.passes.rows.shapes import argument, dims_of, shape_of
from dynamo_genie.passes.rows.template import Axis, CausalMask, Prefix, Rows, RowWise, Size

aten = torch.ops.aten

_TAKES = (aten.slice.Tensor, aten.select.int)


@dataclass(frozen=True)
class CutGraph:
    """A graph in pieces.

    Attributes:
        gm: The graph.
        pieces: The pieces, in order.
        origins: For each call of `gm` where it comes from, by name.
        late: The calls of `gm` that need all pieces of something.
        masks: The calls that make causal masks: cheaper to make than to send.
        gathered: The calls that join pieces of a result elsewhere than where they are grown.
    """

    gm: GraphModule
    pieces: tuple[Piece, ...]
    origins: Mapping[str, Origin]
    late: frozenset[str]
    masks: frozenset[str]
    gathered: frozenset[str]


def cut_rows(
    gm: GraphModule, analysis: RowAnalysis, pieces: Sequence[Piece], gathered: frozenset[Node] = frozenset()
) -> CutGraph:
    """Return `gm` in pieces.

    Args:
        analysis: What of it runs piece by piece.
        pieces: The pieces; together they are all rows, in order.
        gathered: Results that are joined apart from what later pieces read, because they are wanted elsewhere.
    """
    assert [piece.begin for piece in pieces] == [0, *(piece.end for piece in pieces[:-1])]
    assert pieces[-1].end == analysis.rows
    return _Cutting(gm, analysis, tuple(pieces), gathered).run()


class _Cutting:
    """One rewriting: the new graph so far, and where in it the values of the old one are."""

    def __init__(
        self, gm: GraphModule, analysis: RowAnalysis, pieces: tuple[Piece, ...], gathered: frozenset[Node]
    ) -> None:
        self._gm = gm
        self._analysis = analysis
        self._axes = {**analysis.seeds, **{node: found.axes for node, found in analysis.found.items()}}
        self._pieces = pieces
        self._gathered_results = gathered
        self._new = NewCalls(Graph())
        self._whole: dict[Node, Node] = {}
        self._parts: dict[tuple[Node, int], Node] = {}
        self._grown: dict[tuple[Node, int], Node] = {}
        self._narrowed: dict[tuple[Node, Axis, int, int], Node] = {}
        self._late: set[str] = set()
        self._gathered: set[str] = set()

    def run(self) -> CutGraph:
        """Copy what all rows share, then make piece after piece, then what needs all of them."""
        analysis = self._analysis
        for node in self._gm.graph.nodes:
            if node.op in ("placeholder", "get_attr"):
                self._copy(node)
        shared = [n for n in self._calls() if n not in analysis.found and n not in analysis.late]
        for node in shared:
            self._copy(node)
        for piece in self._pieces:
            for node in analysis.found:
                self._parts[node, piece.index] = self._call(node, analysis.found[node], piece)
        for node in self._calls():
            if node in analysis.late:
                self._later(node)
        self._return()
        self._new.graph.lint()
        cut = GraphModule(self._gm, self._new.graph)
        cut.graph.eliminate_dead_code()
        alive = {node.name for node in cut.graph.nodes}
        masks = frozenset(name for name, origin in self._new.origins.items() if origin.node == "") & alive
        origins = {name: origin for name, origin in self._new.origins.items() if name in alive}
        return CutGraph(cut, self._pieces, origins, frozenset(self._late & alive), masks, frozenset(self._gathered))

    def _calls(self) -> list[Node]:
        return [node for node in self._gm.graph.nodes if node.op == "call_function"]

    def _copy(self, node: Node) -> None:
        """Copy a node that is the same for all rows, or needs all of them."""
        args, kwargs = map_aggregate(
            (node.args, dict(node.kwargs)), lambda leaf: self._all_of(leaf) if isinstance(leaf, Node) else leaf
        )
        new = self._new.graph.create_node(node.op, node.target, args, kwargs, name=node.name)
        new.meta = dict(node.meta)
        self._whole[node] = new
        if node.op == "call_function":
            self._new.origins[new.name] = Origin(node.name)

    def _later(self, node: Node) -> None:
        known = set(self._new.origins)
        chosen = self._of_one_piece(node)
        if chosen is None:
            self._copy(node)
        else:
            self._whole[node] = chosen
        self._late |= self._new.origins.keys() - known

    def _of_one_piece(self, node: Node) -> Node | None:
        """Take a slice of the rows, or one of them, from the one piece that has it."""
        source = node.args[0] if node.args else None
        axis = self._axes.get(source) if isinstance(source, Node) else None
        if node.target not in _TAKES or not isinstance(axis, Axis) or axis != Axis(axis.dim):
            return None
        assert isinstance(source, Node)
        size = shape_of(source)[axis.dim]
        if dims_of(argument(node, "dim", 0), len(shape_of(source))) != (axis.dim,):
            return None
        if node.target is aten.select.int:
            begin = argument(node, "index") % size
            end, step = begin + 1, 1
        else:
            begin, end, step = slice(*(argument(node, name) for name in ("start", "end", "step"))).indices(size)
        for piece in self._pieces:
            if step == 1 and piece.begin <= begin < end <= piece.end:
                place = (
                    (begin - piece.begin,)
                    if node.target is aten.select.int
                    else (begin - piece.begin, end - piece.begin)
                )
                args = (self._rows(source, axis, piece), axis.dim, *place)
                return self._new.add(node.target, args, node.meta["val"], node, piece.index, node.name)
        return None

    def _return(self) -> None:
        values: Any = self._gm.graph.output_node().args
        results = map_aggregate(values, lambda leaf: self._result(leaf) if isinstance(leaf, Node) else leaf)
        output = self._new.graph.output(results[0])
        output.meta = dict(self._gm.graph.output_node().meta)

    def _result(self, node: Node) -> Node:
        if node in self._gathered_results and node in self._analysis.found:
            axis = self._axes[node]
            assert isinstance(axis, Axis)
            parts = [self._parts[node, piece.index] for piece in self._pieces]
            known = set(self._new.origins)
            joined = self._new.join(node, axis, parts, self._analysis.rows, None, f"{node.name}_all")
            self._gathered |= self._new.origins.keys() - known
            return joined
        return self._all_of(node)

    def _all_of(self, node: Node) -> Node:
        """Return a value of the old graph as a whole."""
        if node in self._whole:
            return self._whole[node]
        axes = self._axes[node]
        if isinstance(axes, Axis):
            return self._grow(node, axes, self._pieces[-1])
        found = self._analysis.found[node]  # several results at once: those of all rows are made from all rows
        whole = Piece(self._pieces[-1].index, 0, self._analysis.rows)
        self._whole[node] = self._filled(node, found, whole, self._grow, f"{node.name}_all")
        return self._whole[node]

    def _call(self, node: Node, found: RowWise, piece: Piece) -> Node:
        return self._filled(node, found, piece, self._rows, f"{node.name}_{piece.index}")

    def _filled(
        self,
        node: Node,
        found: RowWise,
        piece: Piece,
        rows_of: Callable[[Node, Axis | None, Piece], Node],
        name: str,
    ) -> Node:
        """Make a call as its template says, for a piece."""

        def fill(leaf: Any) -> Any:
            if isinstance(leaf, Rows):
                return rows_of(leaf.node, leaf.axis, piece)
            if isinstance(leaf, Prefix):
                return self._grow(leaf.node, leaf.axis, piece)
            if isinstance(leaf, Size):
                return leaf.axis.size(piece.rows)
            if isinstance(leaf, CausalMask):
                return self._new.causal_mask(piece, leaf.like)
            return self._all_of(leaf) if isinstance(leaf, Node) else leaf

        args, kwargs = map_aggregate((found.args, dict(found.kwargs)), fill)
        value = self._new.fakes.resized(node.meta["val"], found.axes, piece.rows)
        return self._new.add(node.target, args, value, node, piece.index, name, kwargs)

    def _rows(self, node: Node, axis: Axis | None, piece: Piece) -> Node:
        """Return a piece's rows of a value."""
        part = self._parts.get((node, piece.index))
        if part is not None:
            return part
        assert axis is not None
        return self._narrow(node, axis, piece)

    def _grow(self, node: Node, axis: Axis | None, piece: Piece) -> Node:
        """Return all rows of a value up to a piece's end, grown from what it was at the end of the piece before."""
        found = self._analysis.found.get(node)
        if found is None or axis is None:
            return self._narrow(node, axis, piece.so_far) if axis is not None else self._all_of(node)
        if piece.index == 0:
            return self._parts[node, 0]
        key = node, piece.index
        if key not in self._grown:
            self._grown[key] = self._grown_by(node, axis, found, piece)
        return self._grown[key]

    def _grown_by(self, node: Node, axis: Axis, found: RowWise, piece: Piece) -> Node:
        name = f"{node.name}_to_{piece.index}"
        if found.arranges and self._is_cheaper_before(node, found):
            return self._filled(node, found, piece.so_far, self._grow, name)
        both = [self._grow(node, axis, self._pieces[piece.index - 1]), self._parts[node, piece.index]]
        return self._new.join(node, axis, both, piece.end, piece.index, name)

    def _is_cheaper_before(self, node: Node, found: RowWise) -> bool:
        """Say whether what a call arranges has no more entries than its result, and is grown from pieces itself."""
        source = found.args[0]
        if not isinstance(source, Rows) or source.axis is None or source.node not in self._analysis.found:
            return False
        before, after = source.node.meta["val"], node.meta["val"]
        return bool(before.numel() * before.element_size() <= after.numel() * after.element_size())

    def _narrow(self, node: Node, axis: Axis, piece: Piece) -> Node:
        """Return rows of a value that is there as a whole, dense in memory."""
        whole = self._all_of(node)
        if piece.begin == 0 and piece.end == self._analysis.rows:
            return whole
        key = node, axis, piece.begin, piece.end
        if key not in self._narrowed:
            self._narrowed[key] = self._new.rows_of(node, whole, axis, piece)
        return self._narrowed[key]
