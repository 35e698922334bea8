"""The calls of a graph in pieces as they are made: each knows where it comes from, and has a fake value of its size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch.fx import Graph, Node

from dynamo_genie.passes.graphs.semantics import META_KEY, Facts
from dynamo_genie.passes.rows.fakes import Fakes
from dynamo_genie.passes.rows.pieces import Piece
from dynamo_genie.passes.rows.template import Axis

aten = torch.ops.aten


@dataclass(frozen=True)
class Origin:
    """The node of which a node of the new graph makes a part, and for which piece; None where it makes all of it."""

    node: str
    piece: int | None = None


class NewCalls:
    """Adds calls to a graph.

    Attributes:
        graph: The graph.
        fakes: Makes their values.
        origins: Where each call comes from, by name.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.fakes = Fakes()
        self.origins: dict[str, Origin] = {}
        self._causal: dict[tuple[torch.dtype, int], Node] = {}

    def add(
        self,
        target: Any,
        args: tuple[Any, ...],
        value: Any,
        source: Node | None,
        piece: int | None,
        name: str,
        kwargs: dict[str, Any] | None = None,
    ) -> Node:
        """Add a call, with what is known of the node of the old graph of which it makes a part; None for a mask."""
        node = self.graph.create_node("call_function", target, args, kwargs or {}, name=name)
        node.meta = {} if source is None else dict(source.meta)
        node.meta["val"] = value
        facts = node.meta.get(META_KEY)
        if isinstance(facts, Facts):  # sizes are those of the whole, and are found anew where they matter
            node.meta[META_KEY] = replace(facts, nbytes=None, flops=None)
        self.origins[node.name] = Origin(source.name if source is not None else "", piece)
        return node

    def join(self, node: Node, axis: Axis, parts: list[Node], rows: int, piece: int | None, name: str) -> Node:
        """Put pieces of a value together, so that they lie in memory as the whole does.

        Where all rows repeat in blocks, blocks are joined; `cat` gives a dense result, in the order that it is told.
        """
        whole = self.fakes.with_size(node.meta["val"], axis, axis.size(rows))
        order = self.fakes.outermost_first(whole)
        if axis.outer == 1 and order == sorted(order):
            return self.add(aten.cat.default, (parts, axis.dim), whole, node, piece, name)
        joined = self.fakes.apart(whole, axis)
        order = self.fakes.outermost_first(joined)
        new = partial(self.add, source=node, piece=piece, name=name)
        turned = []
        for part in parts:
            blocks = self.fakes.apart(part.meta["val"], axis)
            split = new(aten.view.default, (part, list(blocks.shape)), blocks)
            turned.append(new(aten.permute.default, (split, order), self.fakes.permuted(blocks, order)))
        dense = new(aten.cat.default, (turned, order.index(axis.dim + 1)), self.fakes.permuted(joined, order))
        back = new(aten.permute.default, (dense, [order.index(dim) for dim in range(len(order))]), joined)
        return new(aten.view.default, (back, list(whole.shape)), whole)

    def rows_of(self, node: Node, whole: Node, axis: Axis, piece: Piece) -> Node:
        """Return rows of a value in dense memory, in which its dimensions lie in the same order."""
        value = whole.meta["val"]
        new = partial(self.add, source=node, piece=piece.index, name=f"{node.name}_rows_{piece.index}")
        begin, end = piece.begin * axis.inner, piece.end * axis.inner
        part = self.fakes.with_size(value, axis, axis.size(piece.rows))
        if axis.outer == 1:
            taken = new(
                aten.slice.Tensor, (whole, axis.dim, begin, end), self.fakes.narrowed(value, axis.dim, end - begin)
            )
            is_dense = all(value.shape[dim] == 1 for dim in self._outside(value, axis.dim))
            return taken if is_dense else new(aten.clone.default, (taken,), part)
        blocks = self.fakes.apart(value, axis)
        split = new(aten.view.default, (whole, list(blocks.shape)), blocks)
        narrow = self.fakes.narrowed(blocks, axis.dim + 1, end - begin)
        taken = new(aten.slice.Tensor, (split, axis.dim + 1, begin, end), narrow)
        dense = new(aten.clone.default, (taken,), self.fakes.apart(part, axis))
        return new(aten.view.default, (dense, list(part.shape)), part)

    def _outside(self, value: torch.Tensor, dim: int) -> list[int]:
        """Return the dimensions in whose steps a tensor's memory repeats one of its dimensions."""
        order = self.fakes.outermost_first(value)
        return order[: order.index(dim)]

    def causal_mask(self, piece: Piece, like: Node) -> Node:
        """Return what hides from the piece's queries the keys that come after them."""
        dtype = like.meta["val"].dtype
        key = dtype, piece.index
        if key not in self._causal:
            shape = [piece.rows, piece.end]
            fake = self.fakes.dense(like.meta["val"], shape)
            kwargs = dict(dtype=dtype, layout=torch.strided, device=torch.device("cpu"), pin_memory=False)
            never = self.add(aten.full.default, (shape, -torch.inf), fake, None, piece.index, "never", kwargs)
            hidden = self.add(aten.triu.default, (never, piece.begin + 1), fake, None, piece.index, "causal")
            wide = self.fakes.dense(fake, [1, 1, *shape])
            view = self.add(aten.view.default, (hidden, [1, 1, *shape]), wide, None, piece.index, "causal")
            self._causal[key] = view
        return self._causal[key]
