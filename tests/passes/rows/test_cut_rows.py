"""The graph in pieces: what is made how often, what is joined, where values lie in memory, what is known of each."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule

from dynamo_genie.passes.graphs.semantics import Facts, Role, annotate, facts_of
from dynamo_genie.passes.rows.analysis import RowAnalysis, find_rows
from dynamo_genie.passes.rows.cut_rows import CutGraph, cut_rows
from dynamo_genie.passes.rows.pieces import Piece, pieces_at
from dynamo_genie.passes.rows.template import Axis
from tests.passes.rows.in_pieces import Described, check_in_pieces, trace

aten = torch.ops.aten
flash = aten._scaled_dot_product_flash_attention_for_cpu

BATCH, TOKENS, WIDTH = 2, 12, 8
THREE = [0, 4, 7, 12]

weight = torch.linspace(-1, 1, WIDTH * WIDTH).view(WIDTH, WIDTH)


def heads_of(x: Tensor) -> Tensor:
    return (x @ weight).view(*x.shape[:2], 2, -1).transpose(1, 2)


def block(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A block of a decoder: what comes after it, and its cache."""
    keys, values = heads_of(x), heads_of(x * 2)
    attended, _ = flash(heads_of(x + 1), keys, values, is_causal=True)
    return x + attended.transpose(1, 2).reshape(x.shape) @ weight, keys, values


def two_blocks(x: Tensor) -> tuple[Tensor, ...]:
    x, *cache = block(x)
    x, *more = block(x)
    return x[:, -1] @ weight, *cache, *more


def cut(
    function: Callable[..., Any], x: Tensor, boundaries: Sequence[int] = THREE, dim: int = 1
) -> tuple[GraphModule, RowAnalysis, CutGraph]:
    gm = trace(function, [x])
    analysis = find_rows(gm, {gm.graph.find_nodes(op="placeholder")[0]: Axis(dim)}, x.shape[dim])
    return gm, analysis, check_in_pieces(gm, [x], analysis, boundaries)


def targets(gm: GraphModule) -> Counter[Any]:
    return Counter(node.target for node in gm.graph.nodes if node.op == "call_function")


def prompt(batch: int = BATCH) -> Tensor:
    return torch.randn(batch, TOKENS, WIDTH)


def test_pieces_lie_between_boundaries() -> None:
    assert pieces_at([0, 4, 7]) == (Piece(0, 0, 4), Piece(1, 4, 7))
    assert [(piece.rows, piece.so_far) for piece in pieces_at([0, 4, 7])] == [(4, Piece(0, 0, 4)), (3, Piece(1, 0, 7))]


@pytest.mark.parametrize("boundaries", [[0, 4], [1, 12], [0, 13]])
def test_pieces_are_all_rows(boundaries: list[int]) -> None:
    gm = trace(lambda x: x * 2, [prompt()])
    analysis = find_rows(gm, {gm.graph.find_nodes(op="placeholder")[0]: Axis(1)}, TOKENS)
    with pytest.raises(AssertionError):
        cut_rows(gm, analysis, pieces_at(boundaries))


def test_each_call_is_made_once_a_piece_and_what_one_piece_has_is_taken_from_it() -> None:
    gm, analysis, pieces = cut(two_blocks, prompt())
    made, before = targets(pieces.gm), targets(gm)
    attention = next(target for target in before if getattr(target, "__name__", "") == "portable_attention")
    assert list(analysis.refused.values()) == ["takes one of the rows"]
    assert before[attention] == 2
    assert made[attention] == 3 + 1  # of the last block, which ends with one token, one piece makes it
    assert before[aten.mm.default] == 4 + 4 + 1
    assert made[aten.mm.default] == 3 * 4 + (3 * 2 + 2) + 1
    assert made[aten.select.int] == 1
    (taken,) = (node for node in pieces.gm.graph.nodes if node.target is aten.select.int)
    assert pieces.origins[taken.name].piece == 2
    assert taken.args[2] == TOKENS - THREE[2] - 1


def test_keys_grow_from_piece_to_piece_and_are_the_cache_in_the_end() -> None:
    _, _, pieces = cut(two_blocks, prompt())
    cached = pieces.gm.graph.output_node().args[0][1:]
    grown = [node for node in pieces.gm.graph.nodes if node.target is aten.cat.default]
    assert len(cached) == 4
    assert len(grown) == 4 * (len(pieces.pieces) - 1)
    assert pieces.gathered == frozenset()


def test_gathered_results_are_joined_apart() -> None:
    gm = trace(two_blocks, [x := prompt()])
    analysis = find_rows(gm, {gm.graph.find_nodes(op="placeholder")[0]: Axis(1)}, TOKENS)
    results = gm.graph.output_node().args[0]
    pieces = cut_rows(gm, analysis, pieces_at(THREE), frozenset(results[1:]))
    gathered = [node for node in pieces.gm.graph.nodes if node.name in pieces.gathered]
    assert {pieces.origins[node.name].node for node in gathered} == {node.name for node in results[1:]}
    assert pieces.gathered >= {node.name for node in pieces.gm.graph.output_node().args[0][1:]}
    read = {other for node in gathered for other in node.all_input_nodes if other.name not in pieces.gathered}
    assert {pieces.origins[node.name].piece for node in read} == {0, 1, 2}, "of pieces, and of nothing that is grown"
    assert all(map(torch.allclose, Described(pieces.gm).run(x), gm(x)))


def test_masks_are_made_once_a_piece_whatever_the_layers() -> None:
    _, _, pieces = cut(two_blocks, prompt())
    masks = [node for node in pieces.gm.graph.nodes if node.name in pieces.masks]
    assert Counter(node.target for node in masks) == {
        aten.full.default: 3, aten.triu.default: 3, aten.view.default: 3,
    }  # fmt: skip
    shapes = [tuple(node.meta["val"].shape) for node in masks if node.target is aten.view.default]
    assert shapes == [(1, 1, 4, 4), (1, 1, 3, 7), (1, 1, 5, 12)]


def test_every_call_knows_where_it_comes_from() -> None:
    gm, _, pieces = cut(lambda x: (torch.relu(x @ weight).mean(1), torch.eye(3)), prompt())
    names = {node.name for node in gm.graph.nodes}
    calls = [node for node in pieces.gm.graph.nodes if node.op == "call_function"]
    assert pieces.origins.keys() == {node.name for node in calls}
    assert {origin.node for origin in pieces.origins.values()} <= names
    relus = [node for node in calls if node.target is aten.relu.default]
    assert [pieces.origins[node.name].piece for node in relus] == [0, 1, 2]
    assert {pieces.origins[name].node for name in pieces.late} >= {"mean"}
    assert all(pieces.origins[node.name].piece is None for node in calls if node.target is aten.mean.dim)


def test_facts_stay_and_sizes_of_the_whole_go() -> None:
    gm = trace(lambda x: x @ weight, [x := prompt(1)[0]])
    fact = Facts(role=Role.ACTIVATION, nbytes=384, flops=1536)
    (product,) = (node for node in gm.graph.nodes if node.target is aten.mm.default)
    annotate({product: fact})
    analysis = find_rows(gm, {gm.graph.find_nodes(op="placeholder")[0]: Axis(0)}, TOKENS)
    pieces = check_in_pieces(gm, [x], analysis, THREE)
    parts = [node for node in pieces.gm.graph.nodes if node.target is aten.mm.default]
    assert [facts_of(node) for node in parts] == [replace(fact, nbytes=None, flops=None)] * 3


LAYOUTS: dict[str, Callable[[Tensor], Any]] = {
    "as computed": lambda x: x * 2,
    "tokens of all sequences as rows of a matrix": lambda x: x.view(-1, WIDTH) @ weight,
    "columns": lambda x: (x.view(-1, WIDTH) @ weight).t() * 2,
    "heads": lambda x: heads_of(x) * 2,
    "width first": lambda x: x.permute(2, 0, 1) + 1,
    "tokens first": lambda x: x.transpose(0, 1).clone(memory_format=torch.contiguous_format).transpose(0, 1) * 2,
    "sequences and width as columns": lambda x: (x.permute(1, 0, 2).reshape(TOKENS, -1) * 2).t(),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_what_is_joined_lies_in_memory_as_the_whole(name: str, batch: int, dim: int) -> None:
    """So a view that could be taken of the whole can be taken of it: here the memory itself, as one dimension."""
    x = prompt(3 * batch)
    flat = lambda x: torch.as_strided(LAYOUTS[name](x) + 0, (x.numel(),), (1,))
    rows = x.shape[dim]
    cut(flat, x, [0, 1, rows - 1, rows], dim)
    gm, _, pieces = cut(LAYOUTS[name], x, [0, 1, rows - 1, rows], dim)
    assert pieces.gm(x)[0].stride() == gm(x)[0].stride()


@pytest.mark.parametrize("axis", [Axis(0), Axis(1), Axis(0, 2, 3), Axis(1, 3, 1), Axis(1, 1, 2)])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_inputs_are_sliced_to_dense_pieces(axis: Axis, order: tuple[int, ...]) -> None:
    """Whichever way an input lies in memory; so kernels take the way that they take for the whole."""
    x = torch.randn(12, 12).permute(order)
    rows = 12 // axis.outer // axis.inner
    gm = trace(lambda x: x * 2, [x])
    analysis = find_rows(gm, {gm.graph.find_nodes(op="placeholder")[0]: axis}, rows)
    pieces = check_in_pieces(gm, [x], analysis, [0, 1, rows], exact=True)
    taken: list[Tensor] = []

    class Seeing(Described):
        def run_node(self, n: Any) -> Any:
            if n.target is aten.mul.Tensor:
                taken.append(self.fetch_args_kwargs_from_env(n)[0][0])
            return super().run_node(n)

    Seeing(pieces.gm).run(x)
    assert len(taken) == 2
    assert all(piece.permute(order).is_contiguous() for piece in taken)


def test_results_that_are_inputs_numbers_or_nothing_stay() -> None:
    gm = trace(lambda x: x * 2, [x := prompt()])
    (double,) = gm.graph.output_node().args[0]
    gm.graph.output_node().args = ((gm.graph.find_nodes(op="placeholder")[0], 3, None, double, double),)
    gm.recompile()
    analysis = find_rows(gm, {gm.graph.find_nodes(op="placeholder")[0]: Axis(1)}, TOKENS)
    got = cut_rows(gm, analysis, pieces_at(THREE)).gm(x)
    assert torch.equal(got[0], x)
    assert got[1:3] == (3, None)
    assert all(torch.equal(each, x * 2) for each in got[3:])
