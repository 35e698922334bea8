"""Where caches may grow in place is decided by what reads them; facts only choose among what is safe."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynamo_genie.remote_daemon.operators.arena_plan import RESHAPES, VIEWS, plan_arenas
from dynamo_genie.remote_daemon.operators.table import _overloads
from dynamo_genie.runtime.wire import program as p
from tests.remote_daemon.worker_in_process import WorkerInProcess

NOTHING, CACHE = p.ValueFacts(), p.ValueFacts(role="kv_cache")
END = (1 << 63) - 1
JOIN = p.Node("aten.cat.default", (p.Items((p.Ref(0), p.Ref(1))), -2))
QUERY = p.Ref(1)


def program(*nodes: p.Node, outputs: tuple[p.Argument, ...], caches: tuple[int, ...] = (2,), **extra: Any) -> p.Program:
    """A program of two inputs, a cache's past and its new token; value 2 is the first node's."""
    inputs = (p.TensorInput("float32", 4), p.TensorInput("float32", 4))
    fact_of = tuple(int(value in caches) for value in range(2 + len(nodes)))
    return p.Program(p.PROGRAM_VERSION, inputs, (), nodes, outputs, facts=(NOTHING, CACHE), fact_of=fact_of, **extra)


def node(key: str, *args: p.Argument) -> p.Node:
    return p.Node(f"aten.{key}", args)


GROWING: dict[str, p.Program] = {
    "the result": program(JOIN, outputs=(p.Ref(2),)),
    "no result": program(JOIN, outputs=()),
    "an attention reads it": program(JOIN, p.Node("genie.attention", (QUERY, p.Ref(2), p.Ref(2))), outputs=(p.Ref(2),)),
    "a transposed view is read": program(
        JOIN, node("transpose.int", p.Ref(2), 1, 2), node("clone.default", p.Ref(3)), outputs=(p.Ref(2), p.Ref(4))
    ),
    "its end is the result": program(
        JOIN, node("slice.Tensor", p.Ref(2), 2, -5, END), outputs=(p.Ref(3),), caches=(3,)
    ),
    "its past is known as a cache": program(JOIN, outputs=(p.Ref(2),), caches=(0,)),
    "it is reshaped and read": program(
        JOIN,
        node("view.default", p.Ref(2), p.Items((6, -1, 4))),
        node("bmm.default", p.Ref(3), p.Ref(3)),
        outputs=(p.Ref(2), p.Ref(4)),
    ),
}
COPIED: dict[str, p.Program] = {
    "nobody says that it is a cache": program(JOIN, outputs=(p.Ref(2),), caches=()),
    "it is summed": program(JOIN, node("sum.default", p.Ref(2)), outputs=(p.Ref(2), p.Ref(3))),
    "it is an attention's query": program(
        JOIN, p.Node("genie.attention", (p.Ref(2), QUERY, QUERY)), outputs=(p.Ref(2),)
    ),
    "it is written": program(JOIN, node("add_.Tensor", p.Ref(2), 1), outputs=(p.Ref(2),)),
    "a view of it is written": program(
        JOIN, node("select.int", p.Ref(2), 0, 0), node("zero_.default", p.Ref(3)), outputs=(p.Ref(2),)
    ),
    "it is two results": program(JOIN, outputs=(p.Ref(2), p.Ref(2))),
    "it and its end are results": program(
        JOIN, node("slice.Tensor", p.Ref(2), 2, -5, END), outputs=(p.Ref(2), p.Ref(3))
    ),
    "its beginning is a result": program(JOIN, node("slice.Tensor", p.Ref(2), 2, 0, -1), outputs=(p.Ref(3),)),
    "a part of its heads is a result": program(JOIN, node("slice.Tensor", p.Ref(2), 1, 1, END), outputs=(p.Ref(3),)),
    "every other token is a result": program(JOIN, node("slice.Tensor", p.Ref(2), 2, 0, END, 2), outputs=(p.Ref(3),)),
    "a transposed view is a result": program(JOIN, node("transpose.int", p.Ref(2), 1, 2), outputs=(p.Ref(3),)),
    "a reshaped view is a result": program(JOIN, node("view.default", p.Ref(2), p.Items((-1,))), outputs=(p.Ref(3),)),
    "its strides are read": program(JOIN, node("sym_stride.int", p.Ref(2), 0), outputs=(p.Ref(2),)),
    "its storage is read": program(
        JOIN, node("as_strided.default", p.Ref(2), p.Items((4,)), p.Items((1,))), outputs=(p.Ref(2),)
    ),
}  # fmt: skip


def test_a_cache_stays_contiguous_where_products_with_a_window_round_otherwise() -> None:
    what = GROWING["it is reshaped and read"]
    assert plan_arenas(what, frozenset({"float16"})).appends == {0}
    plan = plan_arenas(what, frozenset({"float32"}))
    assert plan.appends == frozenset()
    assert 0 not in plan.read_otherwise, "it is read by the concatenation alone"


@pytest.mark.parametrize("what", GROWING.values(), ids=GROWING.keys())
def test_a_cache_grows_in_place_where(what: p.Program) -> None:
    plan = plan_arenas(what)
    assert plan.appends == {0}
    assert 0 not in plan.read_otherwise


def test_a_past_that_torch_skips_says_nothing_about_dimensions() -> None:
    """It has one dimension, so every dimension of the cache would look like the one it grows along."""
    heads = node("slice.Tensor", p.Ref(2), 1, 1, END)
    what = program(JOIN, heads, outputs=(p.Ref(3),))
    skipped = msgspec.structs.replace(what, inputs=(p.TensorInput("float32", 1), p.TensorInput("float32", 4)))
    assert plan_arenas(skipped).appends == frozenset()


def test_a_program_that_lies_about_a_rank_gets_right_values() -> None:
    heads = node("slice.Tensor", p.Ref(2), 1, 1, END)
    along = p.Node("aten.cat.default", (p.Items((p.Ref(0), p.Ref(1))), -2))
    what = program(along, heads, outputs=(p.Ref(3),), caches=(2,))
    lying = msgspec.structs.replace(what, inputs=(p.TensorInput(None, 3), p.TensorInput()))
    worker = WorkerInProcess()
    new = torch.arange(32.0).reshape(2, 4, 1, 4)
    [handle] = worker.call(lying, worker.put(new), worker.put(new))
    [total] = worker.call(program(node("sum.default", p.Ref(0)), outputs=(p.Ref(2),)), handle, handle)
    assert torch.equal(worker.value(total), torch.cat([new, new], -2)[:, 1:].sum())


@pytest.mark.parametrize("what", COPIED.values(), ids=COPIED.keys())
def test_a_cache_is_copied_where(what: p.Program) -> None:
    assert plan_arenas(what).appends == frozenset()


@pytest.mark.parametrize(
    ("reader", "separate"),
    [
        (node("sum.default", p.Ref(0)), True),
        (node("select.int", p.Ref(0), 0, 0), True),  # returned
        (node("index_select.default", p.Ref(0), 0, p.Ref(1)), False),
        (node("clone.default", p.Ref(0)), False),
        (node("view.default", p.Ref(0), p.Items((-1,))), True),
        (node("copy_.default", p.Ref(0), p.Ref(1)), True),
        (node("stack.default", p.Items((p.Ref(0), p.Ref(0)))), True),
        (JOIN, False),
    ],
)
def test_an_input_is_separate_where_it_is_not_read_as_a_cache_is(reader: p.Node, separate: bool) -> None:
    plan = plan_arenas(program(reader, outputs=(p.Ref(2),), caches=()))
    assert (0 in plan.read_otherwise) is separate


def test_inputs_that_the_program_says_it_writes_or_returns_are_separate() -> None:
    assert plan_arenas(program(outputs=(p.Ref(1),), mutated_inputs=(0,))).read_otherwise == {0, 1}


def test_a_known_cache_that_is_reshaped_and_read_stays_in_its_arena() -> None:
    view = node("view.default", p.Ref(0), p.Items((6, -1, 4)))
    plan = plan_arenas(program(view, node("bmm.default", p.Ref(2), p.Ref(2)), outputs=(p.Ref(3),), caches=(0,)))
    assert (0 in plan.read_otherwise, plan.reshapes) == (False, {0})


def test_every_operator_that_the_schemas_call_a_view_of_its_first_argument_is_one() -> None:
    for key in (VIEWS - {"getitem"}) | (RESHAPES - {"aten._unsafe_view.default"}):
        first, *rest = _overloads()[key]._schema.arguments
        assert first.alias_info is not None and not first.alias_info.is_write
        assert all(argument.alias_info is None for argument in rest)


# --- any facts, any program ------------------------------------------------------------------------------

STEPS = st.lists(
    st.sampled_from(
        [
            ("cat.default", lambda a, b: (p.Items((a, b)), -2)),
            ("cat.default", lambda a, b: (p.Items((a, b)), 1)),
            ("slice.Tensor", lambda a, b: (a, 2, -3, END)),
            ("slice.Tensor", lambda a, b: (a, 2, 1, END)),
            ("transpose.int", lambda a, b: (a, 1, 3)),
            ("mul.Tensor", lambda a, b: (a, 2.0)),
            ("add_.Tensor", lambda a, b: (a, 1.0)),
            ("clone.default", lambda a, b: (a,)),
            ("alias.default", lambda a, b: (a,)),
            ("cumsum.default", lambda a, b: (a, 2)),
            ("view.default", lambda a, b: (a, p.Items((2, -1, 4, 4)))),
        ]
    ).flatmap(lambda step: st.tuples(st.just(step), st.integers(0, 99), st.integers(0, 99))),
    min_size=1,
    max_size=8,
)


@given(STEPS, st.integers(0, 1 << 12), st.integers(0, 1 << 12))
def test_no_facts_change_the_values_of_any_program(steps: list[Any], caches: int, returned: int) -> None:
    nodes: list[p.Node] = []
    for (key, arguments), left, right in steps:
        known = 2 + len(nodes)
        nodes.append(node(key, *arguments(p.Ref(left % known), p.Ref(right % known))))
    values = range(2 + len(nodes))
    outputs = tuple(p.Ref(value) for value in values if returned >> value & 1)
    flagged = tuple(value for value in values if caches >> value & 1)
    seen = []
    for what in (program(*nodes, outputs=outputs, caches=()), program(*nodes, outputs=outputs, caches=flagged)):
        worker = WorkerInProcess()
        handles = [worker.put(torch.arange(32.0 * n).reshape(2, n, 4, 4)) for n in (4, 4)]
        found: list[Any] = []
        for _ in range(3):  # results go in again, and all are looked at afterwards
            try:
                handles += worker.call(what, *handles[-2:])
            except AssertionError as error:
                found.append(str(error))
                break
        seen.append(found + [worker.value(handle).tolist() for handle in handles])
    assert seen[0] == seen[1]
