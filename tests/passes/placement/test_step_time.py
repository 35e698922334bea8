"""The cost model in numbers that one can add up by hand: what waits for a device, a link, an input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import networkx as nx
import pytest

from dynamo_genie.passes.placement.memory import Ledger, fits
from dynamo_genie.passes.placement.problem import Input, Problem, Value
from dynamo_genie.passes.placement.roofline import operators_s
from dynamo_genie.passes.placement.score import merge_parts, score
from dynamo_genie.passes.placement.step_time import parts_of, predict
from dynamo_genie.passes.placement.topology import Device
from tests.placed import make_topology

GB = 10**9
"""What a link carries in a second here."""


def problem_of(
    predecessors: Sequence[tuple[int, ...]],
    values: Sequence[Value] = (),
    inputs: Sequence[Input] = (),
    *,
    unit_s: float = 0.0,
    latency_s: float = 0.0,
    memory: Sequence[int] = (GB, GB, GB),
) -> Problem:
    """A problem on three equal devices, with links of one GB a second."""
    n = len(predecessors)
    return Problem(
        topology=make_topology(memory, latency_s=latency_s, link_bytes_per_s=GB),
        units=tuple((f"unit{i}",) for i in range(n)),
        predecessors=tuple(predecessors),
        seconds=((unit_s,) * 3,) * n,
        values=tuple(values),
        weights=(),
        inputs=tuple(inputs),
        cache_nbytes=(0,) * n,
        reserved_nbytes=(0,) * n,
        allowed=((0, 1, 2),) * n,
    )


def step_s(problem: Problem, *devices: int) -> float:
    return predict(problem, parts_of(problem, devices)).step_s


def about(seconds: float) -> object:
    """Equal, but for what starting a few partitions takes."""
    return pytest.approx(seconds, abs=1e-3)


def two_values(reader: int = 1) -> list[Value]:
    return [Value("first", 0, (1,), GB, ""), Value("second", 0, (reader,), GB, "")]


def test_two_values_on_one_link_wait_for_one_another() -> None:
    assert step_s(problem_of([(), (0,)], two_values()), 0, 1) == about(2.0)


def test_two_inputs_on_one_link_wait_for_one_another() -> None:
    inputs = [Input(name, (0,), GB, "", ()) for name in ("x", "y")]
    assert step_s(problem_of([()], inputs=inputs), 0) == about(2.0)


def test_values_on_links_that_share_no_end_do_not_wait_for_one_another() -> None:
    inputs = [Input("x", (2,), GB, "", ())]
    assert step_s(problem_of([(), (0,), ()], two_values()[:1], inputs), 0, 1, 2) == about(1.0)


def test_the_latency_of_a_link_delays_a_value_and_does_not_keep_the_link_busy() -> None:
    found = step_s(problem_of([(), (0,)], two_values(), latency_s=0.5), 0, 1)
    assert found == about(0.5 + 2.0 + 0.5)  # the call itself, the two values, the latency of the last


def test_a_value_that_two_units_of_one_device_read_is_sent_once() -> None:
    assert step_s(problem_of([(), (0,), (0,)], [Value("v", 0, (1, 2), GB, "")]), 0, 1, 1) == about(1.0)


def test_an_input_that_is_on_the_device_already_is_not_sent_and_comes_from_the_nearest_home_otherwise() -> None:
    def input_at(*homes: int) -> Problem:
        return problem_of([()], inputs=[Input("x", (0,), GB, "", homes)])

    assert (step_s(input_at(0, 1), 0), step_s(input_at(1), 0)) == (about(0.0), about(1.0))
    near = input_at(1, 2)
    links = tuple(replace(each, bytes_per_s=2 * GB) if each.source == "c" else each for each in near.topology.links)
    assert step_s(replace(near, topology=replace(near.topology, links=links)), 0) == about(0.5)


def test_two_devices_work_at_once_and_one_on_one_part_after_another() -> None:
    apart = problem_of([(), ()], unit_s=1.0)
    assert (step_s(apart, 0, 0), step_s(apart, 0, 1)) == (about(2.0), about(1.0))
    assert predict(apart, parts_of(apart, (0, 1))).busy_s == (1.0, 1.0, 0.0)
    late = problem_of([(), (), (1,)], [Value("v", 1, (2,), 1, "")])
    late = replace(late, seconds=((3.0,) * 3, (0.0,) * 3, (1.0,) * 3))
    assert step_s(late, 0, 1, 0) == about(4.0)  # the third could begin at once, but for the first


def test_parts_of_one_device_are_merged_where_the_step_gets_no_longer() -> None:
    chain = problem_of([(), (0,), ()])
    scored = score(chain, (0, 1, 1))
    assert scored is not None and len(scored.parts.device) == 3
    assert merge_parts(chain, scored).parts.of == (0, 1, 1)


# --- the roofline ---


@pytest.mark.parametrize(("flops", "nbytes", "seconds"), [(8, 1, 2.0), (1, 5, 1.0), (8, 5, 2.0)])
def test_an_operator_is_bound_by_its_arithmetic_or_by_what_it_touches(flops: int, nbytes: int, seconds: float) -> None:
    graph = nx.DiGraph()
    graph.add_node("x", nbytes=nbytes, op="placeholder")
    graph.add_node("y", nbytes=nbytes, flops=flops, view=False, target="aten.mm.default", shape="tensor")
    graph.add_edge("x", "y", reads=True)
    assert operators_s(graph, ["y"], Device("a", 0, 4.0, 10.0)) == about(seconds)


# --- memory ---


def test_a_weight_counts_once_a_device_and_a_reserve_once_a_unit() -> None:
    problem = replace(
        problem_of([(), ()], memory=(10, 10, 10)),
        weights=(Input("w", (0, 1), 6, "", ()),),
        reserved_nbytes=(2, 2),
    )
    assert fits(problem, (0, 0)) and fits(problem, (0, 1))
    assert not fits(replace(problem, reserved_nbytes=(2, 3)), (0, 0))
    ledger = Ledger(problem)
    ledger.put((0,), 0)
    assert (ledger.left, ledger.needed((1,), 0), ledger.needed((1,), 1)) == ([2, 10, 10], 2, 8)
    assert ledger.takes((1,), 0) and not Ledger(replace(problem, allowed=((1,), (1,)))).takes((0,), 0)
