"""Analysis of rows: which calls of a graph run piece by piece, and why the others do not. Pure.

Every value is proved, from the inputs on, to be row-wise along some dimension, or is the same for all rows; what reads
a value that is complete only when all rows are, is computed then, and whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch.fx import GraphModule, Node

from dynamo_genie.passes.graphs.graph_view import draws, operator_name
from dynamo_genie.passes.rows.rules import row_wise
from dynamo_genie.passes.rows.template import TAKES, Axis, CannotCut, Known, RowWise
from dynamo_genie.schemas import read_schema
from dynamo_genie.torch_internals.operators import HigherOrderOperator, OpOverload


@dataclass(frozen=True)
class RowAnalysis:
    """What of a graph runs piece by piece.

    Attributes:
        rows: How many rows there are.
        seeds: The inputs whose rows are cut.
        found: The calls that run piece by piece.
        late: The calls that are made once, when all rows are there.
        refused: Why the first of those cannot run piece by piece; the others read from these.
    """

    rows: int
    seeds: Mapping[Node, Axis]
    found: Mapping[Node, RowWise]
    late: frozenset[Node]
    refused: Mapping[Node, str]


def find_rows(gm: GraphModule, seeds: Mapping[Node, Axis], rows: int) -> RowAnalysis:
    """Find what can run piece by piece, where the seeds' rows do.

    Args:
        gm: A graph whose shapes are numbers.
        seeds: Inputs, with where their rows are.
        rows: How many they have.

    Raises:
        CannotCut: The graph has an effect that must happen once, and in order.
    """
    known = Known(rows)
    known.axes.update(seeds)
    found: dict[Node, RowWise] = {}
    late: set[Node] = set()
    refused: dict[Node, str] = {}
    for node in gm.graph.nodes:
        if node.op != "call_function":
            continue
        _require_pure(node)
        if not late.isdisjoint(node.all_input_nodes):
            late.add(node)
        elif known.has_rows([node.args, node.kwargs]):
            try:
                found[node] = row_wise(node, known)
                known.axes[node] = found[node].axes
            except CannotCut as why:
                late.add(node)
                refused[node] = str(why)
    return RowAnalysis(rows, dict(seeds), found, frozenset(late), refused)


def find_most_rows(gm: GraphModule, seeds: Mapping[Node, Axis], rows: int) -> RowAnalysis:
    """Find what can run piece by piece, with the rows of all seeds, or without inputs that alone stop it.

    A mask of padding has as many rows as the token ids. Where its rows are lost on the way to attention, all of it can
    be the same for all pieces, and attention takes their rows of what is made of it.

    Raises:
        CannotCut: As `find_rows`.
    """
    best = find_rows(gm, seeds, rows)
    while (stops := _seeds_behind(best)) and (left := {n: best.seeds[n] for n in best.seeds if n not in stops}):
        without = find_rows(gm, left, rows)
        if len(without.found) <= len(best.found):
            break
        best = without
    return best


def _seeds_behind(analysis: RowAnalysis) -> set[Node]:
    """Return the seeds of which the first call that stops the rows is made."""
    stopped = [node for node, why in analysis.refused.items() if not why.startswith(TAKES)][:1]
    behind, reached = set(stopped), stopped
    while reached:
        reached = [each for node in reached for each in node.all_input_nodes if each not in behind]
        behind.update(reached)
    return behind & analysis.seeds.keys()


def _require_pure(node: Node) -> None:
    target = node.target
    if draws(node):
        raise CannotCut(f"{operator_name(node)} draws random numbers, in an order that pieces would change")
    if isinstance(target, HigherOrderOperator):
        raise CannotCut(f"{operator_name(node)} runs graphs of its own")
    if isinstance(target, OpOverload) and read_schema(target).writes:
        raise CannotCut(f"{operator_name(node)} writes into memory that outlives the call")


def reasons(analysis: RowAnalysis) -> tuple[str, ...]:
    """Return why calls cannot run piece by piece, for people, in graph order; taking some of the rows is no reason."""
    lines = (
        f"{operator_name(node)} ({node.name}) {why}"
        for node, why in analysis.refused.items()
        if not why.startswith(TAKES)
    )
    return tuple(dict.fromkeys(lines))
