"""What is known of a graph's calls when it is compiled."""

from __future__ import annotations

from typing import Any

import torch

from dynamo_genie.calls.plan import plan_calls
from dynamo_genie.modes import MODES
from dynamo_genie.passes.graphs.semantics import Facts, Role, annotate
from tests.dynamo_genie.calls.stub_daemon import Called, graph_of


def plan(gm: Any, mode: str = "semantic", **more: Any) -> Any:
    return plan_calls(gm, MODES[mode], "auto", more.pop("resident", frozenset()), **more)


def test_what_stays_is_bound_unless_it_is_remote_or_nothing_stays() -> None:
    called = Called(graph_of(lambda a, b: a @ b, torch.ones(2, 2), torch.ones(2, 2)))
    local, parameter = torch.ones(2, 2), torch.nn.Parameter(torch.ones(2, 2))
    assert plan(called.gm, resident=frozenset({0})).bound([local, local]) == (0,)
    assert plan(called.gm, resident=frozenset({0})).bound([called.remote(local), local]) == ()
    assert plan(called.gm).bound([local, parameter]) == (1,)
    assert plan(called.gm, "naive", resident=frozenset({0})).bound([local, parameter]) == ()


def test_sizes_that_nobody_reads_are_not_sent() -> None:
    gm = graph_of(lambda x: x + 1, torch.ones(3, 5), dynamic=True)
    assert len(plan(gm).unread) == len(gm.graph.find_nodes(op="placeholder")) - 1 > 0


def test_results_come_here_where_none_may_stay_and_gradients_always() -> None:
    gm = graph_of(lambda x: (x + 1, x * 2), torch.ones(3))
    assert plan(gm).fetched == frozenset()
    assert plan(gm, "remote_cache").fetched == {0, 1}
    assert plan(gm, gradients=frozenset({1, 7})).fetched == {1}
    assert plan(gm, gradients=frozenset({1})).output_kinds == ("output", "gradient")


def test_what_is_saved_for_backward_is_an_activation() -> None:
    gm = graph_of(lambda x: (x + 1, x * 2), torch.ones(3))
    assert plan(gm, n_results=1).output_kinds == ("output", "activation")


def test_a_role_decides_under_which_class_bytes_are_counted() -> None:
    gm = graph_of(lambda past, new: torch.cat([past, new], 1), torch.ones(1, 3), torch.ones(1, 1))
    annotate({gm.graph.find_nodes(op="placeholder")[0]: Facts(role=Role.KV_CACHE)})
    assert plan(gm).input_kinds == ("kv_cache", "input")


def test_an_input_that_is_returned_is_known_by_its_position() -> None:
    gm = graph_of(lambda x, y: (x + y, y.add_(1)), torch.ones(3), torch.ones(3))
    found = plan(gm).passed_through
    assert all(position == -1 or position in (0, 1) for position in found)
