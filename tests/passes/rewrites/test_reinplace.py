"""Updates that end in an input are written there, and nothing else is: values equal eager either way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from dynamo_genie.lowering.graph import lower
from dynamo_genie.passes.rewrites.reinplace import reinplace
from tests.captured import capture

aten = torch.ops.aten
CACHE = (1, 2, 8, 4)


def _count(gm: GraphModule) -> Counter[str]:
    return Counter(str(node.target) for node in gm.graph.nodes if node.op == "call_function")


def _run(function: Callable[..., Any], *args: Any) -> GraphModule:
    """Assert that `function`, rewritten, returns and writes what eager does; return the rewritten graph."""

    def rewrite(gm: GraphModule) -> GraphModule:
        mutated = lower(gm).program.mutated_inputs
        result = reinplace(gm).graph_module
        assert lower(result).program.mutated_inputs == mutated
        return result

    compiled, captured = capture(function, rewrite)
    copies = [arg.clone() if isinstance(arg, Tensor) else arg for arg in args]
    with torch.no_grad():
        expected, found = function(*args), compiled(*copies)
    assert all(torch.equal(one, other) for one, other in zip(_flat(found), _flat(expected), strict=True))
    assert all(torch.equal(one, other) for one, other in zip(copies, args, strict=True) if isinstance(one, Tensor))
    return captured.forward[0]


def _flat(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def _args() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(CACHE), torch.tensor([3]), torch.randn(1, 2, 1, 4)


def index_copy(cache: Tensor, place: Tensor, new: Tensor) -> Tensor:
    cache.index_copy_(2, place, new)
    return cache.sum()


def index_put(cache: Tensor, place: Tensor, new: Tensor) -> Tensor:
    cache[:, :, place] = new
    return cache * 2


def slice_write(cache: Tensor, place: Tensor, new: Tensor) -> Tensor:
    cache[:, :, 3:4] = new
    return cache * 2


def select_write(cache: Tensor, place: Tensor, new: Tensor) -> Tensor:
    cache[:, :, 3] = new[:, :, 0]
    return cache * 2


def scatter(cache: Tensor, place: Tensor, new: Tensor) -> Tensor:
    cache.scatter_(2, place.expand(1, 2, 1, 4), new)
    return cache * 2


def several(cache: Tensor, place: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    cache.index_copy_(2, place, new)
    early = cache.sum(2)
    cache.index_copy_(2, place + 1, new * 2)
    return early, cache.sum(2)


def read_before(cache: Tensor, place: Tensor, new: Tensor) -> Tensor:
    old = cache.sum()
    cache.index_copy_(2, place, new)
    return cache.sum() - old


@pytest.mark.parametrize(
    "function",
    [index_copy, index_put, slice_write, select_write, scatter, several, read_before],
    ids=lambda f: f.__name__,
)
def test_an_update_is_written_in_place(function: Callable[..., Any]) -> None:
    calls = _count(_run(function, *_args()))
    writes = ("index_copy_.", "index_put_.", "scatter_.", "copy_.")
    whole = ("index_copy.", "index_put.", "slice_scatter.", "select_scatter.", "scatter.")
    assert any(name.split("aten.")[-1].startswith(writes) for name in calls), calls
    assert not any(name.split("aten.")[-1].startswith(whole) for name in calls), calls


def old_value_is_read_later(cache: Tensor, place: Tensor, new: Tensor) -> Tensor:
    old = cache + 0 * new.sum()
    cache.index_copy_(2, place, new)
    return old * cache


def source_views_the_cache(cache: Tensor, place: Tensor, new: Tensor) -> Tensor:
    cache.index_copy_(2, place, cache[:, :, 2:3])
    return cache.sum()


def another_result_is_copied_back(cache: Tensor, place: Tensor, new: Tensor) -> Tensor:
    cache.copy_(cache.index_copy(2, place, new) * 2)
    return cache.sum()


def copied_into_another_input(cache: Tensor, place: Tensor, other: Tensor) -> Tensor:
    other.copy_(cache.index_copy(2, place, other[:, :, :1]))
    return other.sum()


@pytest.mark.parametrize("function", [source_views_the_cache, another_result_is_copied_back], ids=lambda f: f.__name__)
def test_an_update_that_reads_the_cache_or_is_not_the_last_word_stays(function: Callable[..., Any]) -> None:
    calls = _count(_run(function, *_args()))
    assert "aten.copy_.default" in calls
    assert not any(name.startswith(("aten.index_copy_.", "aten.index_put_.")) for name in calls)


# --- graphs written by hand: AOTAutograd makes few of them ---------------------------------------------------

Late = Callable[[Graph, Node, Node, Node], Node]
"""Given a graph, the cache, a view of it made before the update and the updated cache, what the graph returns."""

LATE: dict[str, tuple[Late, bool]] = {
    "the updated cache is read": (lambda g, cache, view, updated: g.call_function(aten.sum.default, (updated,)), True),
    "the old cache is read": (lambda g, cache, view, updated: g.call_function(aten.sum.default, (cache,)), False),
    "an old view is read": (lambda g, cache, view, updated: g.call_function(aten.sum.default, (view,)), False),
    "the updated cache is returned": (lambda g, cache, view, updated: updated, False),
    "the old cache is returned": (lambda g, cache, view, updated: cache, False),
    "a view of the updated cache is returned": (
        lambda g, cache, view, updated: g.call_function(aten.select.int, (updated, 0, 0)), False
    ),
    "the updated cache is written": (
        lambda g, cache, view, updated: g.call_function(
            aten.sum.default, (g.call_function(aten.add_.Tensor, (updated, 1)),)
        ), False
    ),
}  # fmt: skip


@pytest.mark.parametrize(("late", "written"), LATE.values(), ids=LATE.keys())
@pytest.mark.parametrize("read_after_copy", [False, True])
def test_an_update_is_written_only_where_nobody_wants_the_old_memory(
    late: Late, written: bool, read_after_copy: bool
) -> None:
    graph = Graph()
    cache, place, new = (graph.placeholder(name) for name in ("cache", "place", "new"))
    view = graph.call_function(aten.select.int, (cache, 2, 3))
    updated = graph.call_function(aten.index_copy.default, (cache, 2, place, new))
    result = None if read_after_copy else late(graph, cache, view, updated)
    graph.call_function(aten.copy_.default, (cache, updated))
    graph.output((late(graph, cache, view, updated) if result is None else result,))
    gm = GraphModule(torch.nn.Module(), graph)
    args = _args()
    copies = [arg.clone() for arg in args]
    [expected] = gm(*args)
    assert reinplace(gm).modified is written
    [found] = gm(*copies)
    assert torch.equal(found, expected)
    assert torch.equal(copies[0], args[0])


def test_an_old_value_that_was_copied_in_time_does_not_matter() -> None:
    _run(old_value_is_read_later, *_args())


def test_another_input_is_left_alone() -> None:
    cache, place, _ = _args()
    assert "aten.index_copy.default" in _count(_run(copied_into_another_input, cache, place, torch.randn(CACHE)))


def test_a_graph_without_updates_is_not_touched() -> None:
    compiled, captured = capture(lambda x: x + 1)
    compiled(torch.ones(2))
    assert not reinplace(captured.forward[0]).modified
