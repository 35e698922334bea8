"""Graphs of one call or a few, run whole and in pieces of rows, in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import getitem
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule, Interpreter, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves

from dynamo_genie.passes.rewrites.portable import make_portable
from dynamo_genie.passes.rows.analysis import RowAnalysis, find_rows
from dynamo_genie.passes.rows.cut_rows import CutGraph, cut_rows
from dynamo_genie.passes.rows.pieces import pieces_at
from dynamo_genie.passes.rows.template import Axis

Seeds = dict[Node, Axis]


def trace(function: Callable[..., Any], tensors: Sequence[Tensor]) -> GraphModule:
    """Return the ATen graph of a function of tensors, with the tensors that it returns as results."""

    def flat(*args: Tensor) -> tuple[Tensor, ...]:
        return tuple(leaf for leaf in tree_leaves(function(*args)) if isinstance(leaf, Tensor))

    gm = make_portable(make_fx(flat)(*tensors)).graph_module
    gm.graph.eliminate_dead_code()
    return gm


def graph_of_call(target: Any, tensors: Sequence[Tensor], arguments: Callable[..., tuple[Any, ...]]) -> GraphModule:
    """Return a graph of one call as it stands, for operators that a trace would take apart."""
    graph = Graph()
    inputs = [graph.placeholder(f"input_{i}") for i in range(len(tensors))]
    call = graph.call_function(target, arguments(*inputs))
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(tensor) for tensor in tensors]
        for node, fake in zip(inputs, fakes, strict=True):
            node.meta["val"] = fake
        call.meta["val"] = made = target(*arguments(*fakes))
    results = (
        [call] if isinstance(made, Tensor) else [graph.call_function(getitem, (call, i)) for i in range(len(made))]
    )
    for node, value in zip(results, [made] if isinstance(made, Tensor) else made, strict=True):
        node.meta["val"] = value
    graph.output(tuple(results))
    return GraphModule({}, graph)


class Described(Interpreter):
    """Runs a graph, and sees that each call gives the shapes and dtypes that its node says."""

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n.op == "call_function" and "val" in n.meta:
            for made, said in zip(tree_leaves(result), tree_leaves(n.meta["val"]), strict=True):
                assert not isinstance(made, Tensor) or (made.shape, made.dtype) == (said.shape, said.dtype), n
        return result


def is_same(one: Tensor, other: Tensor, *, exact: bool = False) -> bool:
    """Say whether tensors are equal; floating point numbers almost, unless they must be `exact`."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if exact or not (one.dtype.is_floating_point or one.dtype.is_complex):
        return torch.equal(one, other)
    finite = other[other.isfinite()].abs()
    largest = float(finite.max()) if finite.numel() else 1.0
    return torch.allclose(one, other, rtol=1e-5, atol=1e-6 * max(1.0, largest), equal_nan=True)


def check_in_pieces(
    gm: GraphModule, tensors: Sequence[Any], analysis: RowAnalysis, boundaries: Sequence[int], *, exact: bool = False
) -> CutGraph:
    """Run a graph whole and in pieces, and compare the results; return the graph in pieces."""
    cut = cut_rows(gm, analysis, pieces_at(boundaries))
    expected = gm(*tensors)
    got = Described(cut.gm).run(*tensors)
    assert len(got) == len(expected)
    assert all(is_same(one, other, exact=exact) for one, other in zip(got, expected, strict=True)), cut.gm.code
    return cut


@dataclass(frozen=True)
class Case:
    """A call whose dimensions have letters, as in `einsum`: "ab,bc" are two matrices, of which one is as wide as other.

    Attributes:
        call: A function of the tensors.
        shapes: Letters for dimensions, digits for those of one size; integers in brackets: "[ab]".
        rows: The letters along which the call is row-wise.
        exact: Whether pieces must have the bits of the whole, since nothing is computed.
        blocks: Whether rows may repeat in blocks.
    """

    call: Callable[..., Any]
    shapes: str
    rows: str
    exact: bool = False
    blocks: bool = True
    letters: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        found = dict.fromkeys(letter for letter in self.shapes if letter.isalpha())
        object.__setattr__(self, "letters", tuple(found))

    def tensors(self, sizes: Mapping[str, int]) -> list[Tensor]:
        """Return tensors of these sizes; integers are 0 or 1, which is an index into anything."""
        return [self._tensor(text, sizes) for text in self.shapes.split(",")]

    def seeds(self, gm: GraphModule, axes: Mapping[str, Axis], letter: str) -> Seeds:
        """Return all inputs along a letter, except those that have it twice."""
        texts = [text.strip("[]") for text in self.shapes.split(",")]
        inputs = zip(gm.graph.find_nodes(op="placeholder"), texts, strict=True)
        axis = axes[letter]
        return {
            node: Axis(text.index(letter), axis.outer, axis.inner) for node, text in inputs if text.count(letter) == 1
        }

    @staticmethod
    def _tensor(text: str, sizes: Mapping[str, int]) -> Tensor:
        shape = [sizes[each] if each.isalpha() else int(each) for each in text.strip("[]")]
        return torch.randint(0, 2, shape) if text.startswith("[") else torch.randn(shape)


@st.composite
def boundaries_of(draw: st.DrawFn, rows: int) -> list[int]:
    """Boundaries of up to four pieces; some of one row."""
    inner = draw(st.sets(st.integers(1, rows - 1), min_size=1, max_size=3))
    return [0, *sorted(inner), rows]


@dataclass(frozen=True)
class Drawn:
    """A case with numbers: rows along one letter, in pieces."""

    letter: str
    rows: int
    sizes: Mapping[str, int]
    axis: Axis
    boundaries: Sequence[int]


@st.composite
def drawn(draw: st.DrawFn, case: Case) -> Drawn:
    """Draw a letter, how many rows lie along it and in which blocks, all sizes, and the pieces."""
    letter, rows = draw(st.sampled_from(case.letters)), draw(st.integers(2, 6))
    outer, inner = (draw(st.integers(1, 2)) if case.blocks else 1 for _ in range(2))
    sizes = {each: draw(st.integers(2, 6)) for each in case.letters}
    sizes[letter] = outer * rows * inner
    return Drawn(letter, rows, sizes, Axis(0, outer, inner), draw(boundaries_of(rows)))


def check_case(case: Case, data: st.DataObject) -> None:
    """Hold a case to what it says, with numbers that are drawn: row-wise along its letters, whole along all others."""
    numbers = data.draw(drawn(case))
    tensors = case.tensors(numbers.sizes)
    gm = trace(case.call, tensors)
    seeds = case.seeds(gm, {numbers.letter: numbers.axis}, numbers.letter)
    if not seeds:
        return
    analysis = find_rows(gm, seeds, numbers.rows)
    assert bool(analysis.refused) == (numbers.letter not in case.rows), dict(analysis.refused)
    check_in_pieces(gm, tensors, analysis, numbers.boundaries, exact=case.exact)
    some = dict(list(seeds.items())[: data.draw(st.integers(1, len(seeds)))])
    check_in_pieces(gm, tensors, find_rows(gm, some, numbers.rows), numbers.boundaries, exact=case.exact)
