"""The schedule of a call: what contends for links and network cards, and that records say what was simulated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo_genie.passes.placement.placement import place
from dynamo_genie.passes.placement.plan import Policy
from dynamo_genie.passes.placement.problem import Input, Problem, Value
from dynamo_genie.passes.placement.schedule import Schedule, ScheduledPart, ScheduledTransfer
from dynamo_genie.passes.placement.step_time import parts_of, predict, simulate
from dynamo_genie.passes.placement.topology import CLIENT
from tests.passes.placement.test_placement import captured, linears
from tests.passes.placement.test_step_time import GB, about, problem_of, step_s, two_values
from tests.placed import PLENTY, make_topology

PARTITION_S = 50e-6


def input_of(name: str, reader: int) -> Input:
    return Input(name, (reader,), GB, "", ())


def with_speeds(problem: Problem, speeds: Mapping[tuple[str, str], float]) -> Problem:
    """The problem with other speeds for some of its links."""
    topology = problem.topology
    links = tuple(
        replace(each, bytes_per_s=speeds.get((each.source, each.target), each.bytes_per_s)) for each in topology.links
    )
    return replace(problem, topology=replace(topology, links=links))


# --- network cards ---


def test_values_that_leave_one_device_on_two_links_share_its_card() -> None:
    assert step_s(problem_of([(), (0,), (0,)], two_values(reader=2)), 0, 1, 2) == about(2.0)


def test_inputs_that_the_client_sends_to_two_devices_share_its_card() -> None:
    assert step_s(problem_of([(), ()], inputs=[input_of("x", 0), input_of("y", 1)]), 0, 1) == about(2.0)


def test_what_comes_to_a_device_from_two_ends_shares_its_card() -> None:
    assert step_s(problem_of([(), (0,)], two_values()[:1], [input_of("x", 1)]), 0, 1) == about(2.0)


def test_what_a_device_sends_and_what_it_gets_do_not_share_a_card() -> None:
    values = [Value("out", 0, (1,), GB, ""), Value("in", 2, (3,), GB, "")]
    assert step_s(problem_of([(), (0,), (), (2,)], values), 0, 1, 2, 0) == about(1.0)


def test_a_slow_link_leaves_the_rest_of_a_fast_card_to_others() -> None:
    problem = problem_of([(), (0,), (0,)], two_values(reader=2))
    fast = with_speeds(
        problem, {("a", CLIENT): 10 * GB}
    )  # so the card of "a" can do as much, and its two links a tenth
    assert step_s(fast, 0, 1, 2) == about(1.1)


def test_a_value_that_waits_for_its_own_link_holds_up_nothing_on_another_one() -> None:
    values = [Value("one", 0, (1,), GB, ""), Value("two", 0, (1,), GB, ""), Value("three", 0, (2,), GB, "")]
    problem = with_speeds(problem_of([(), (0,), (0,)], values), {("a", "b"): GB / 10})
    _, schedule = simulate(problem, parts_of(problem, (0, 1, 2)))
    assert [each.end_s for each in schedule.transfers] == [about(10.0), about(20.0), about(3.0)]


# --- records ---


def test_a_call_is_written_down_as_one_would_add_it_up_by_hand() -> None:
    problem = problem_of(
        [(), (0,)], [Value("v", 0, (1,), GB, "activation")], [Input("x", (0,), GB, "", ())], unit_s=2.0, latency_s=0.5
    )
    time, schedule = simulate(problem, parts_of(problem, (0, 1)))
    first, second = 3.5 + PARTITION_S, 7.0 + 2 * PARTITION_S
    assert schedule == Schedule(
        parts=(ScheduledPart(0, "a", 1.5, first), ScheduledPart(1, "b", first + 1.5, second)),
        transfers=(
            ScheduledTransfer("x", CLIENT, "a", GB, 0.0, 1.0, 1.5, None, (0,)),
            ScheduledTransfer("v", "a", "b", GB, first, first + 1.0, first + 1.5, 0, (1,)),
        ),
    )
    assert time.step_s == second


def test_what_two_partitions_of_one_device_read_is_one_transfer() -> None:
    values = [Value("v", 0, (1, 2), GB, ""), Value("w", 1, (2,), 1, "")]
    problem = problem_of([(), (0,), (0, 1), ()], values)
    parts = parts_of(problem, (0, 1, 1, 2))
    split = replace(parts, of=(0, 1, 2, 3), device=(0, 1, 1, 2), stage=(0, 1, 2, 0))
    _, schedule = simulate(problem, split)
    assert [(each.value, each.maker, each.readers) for each in schedule.transfers] == [("v", 0, (1, 2))]


@st.composite
def problems(draw: st.DrawFn) -> tuple[Problem, tuple[int, ...]]:
    """Units on three devices, with links of different speeds."""
    n = draw(st.integers(1, 8))
    before = [draw(st.sets(st.integers(0, unit - 1), max_size=3)) if unit else set() for unit in range(n)]
    sizes = st.integers(1, GB)
    values = [
        Value(f"v{maker}", maker, readers, draw(sizes), "")
        for maker in range(n)
        if (readers := tuple(unit for unit in range(n) if maker in before[unit]))
    ]
    inputs = [Input(f"x{unit}", (unit,), draw(sizes), "", ()) for unit in range(n) if draw(st.booleans())]
    problem = problem_of([tuple(sorted(each)) for each in before], values, inputs, unit_s=0.1, latency_s=0.01)
    speeds = {
        (link.source, link.target): draw(st.sampled_from((GB, GB / 8, 10 * GB))) for link in problem.topology.links
    }
    return with_speeds(problem, speeds), tuple(draw(st.integers(0, 2)) for _ in range(n))


@settings(max_examples=150, deadline=None)
@given(problems())
def test_a_schedule_keeps_the_laws_of_the_simulation(drawn: tuple[Problem, tuple[int, ...]]) -> None:
    problem, devices = drawn
    parts = parts_of(problem, devices)
    time, schedule = simulate(problem, parts)
    assert time == predict(problem, parts)
    assert (time, schedule) == simulate(problem, parts)
    assert time.step_s == max(part.end_s for part in schedule.parts)
    for device in "abc":
        assert_one_at_a_time([(p.start_s, p.end_s) for p in schedule.parts if p.device == device])
    for ends in {(each.source, each.target) for each in schedule.transfers}:
        own = [each for each in schedule.transfers if (each.source, each.target) == ends]
        assert_one_at_a_time([(each.start_s, each.end_s) for each in own])
    for each in schedule.transfers:
        assert each.maker is None or schedule.parts[each.maker].end_s <= each.start_s
        assert all(each.arrives_s <= schedule.parts[reader].start_s for reader in each.readers)
    assert_cards_carry_no_more_than_they_can(problem, schedule)


def assert_one_at_a_time(spans: list[tuple[float, float]]) -> None:
    for (_, end), (start, _) in pairwise(sorted(spans)):
        assert end <= start + 1e-12


def assert_cards_carry_no_more_than_they_can(problem: Problem, schedule: Schedule) -> None:
    """Whatever the order, n values that pass a card in one direction take it as long as their bytes do."""
    for end in (CLIENT, "a", "b", "c"):
        for leaving in (True, False):
            links = [link for link in problem.topology.links if (link.source if leaving else link.target) == end]
            own = [each for each in schedule.transfers if (each.source if leaving else each.target) == end]
            card_s = sum(each.nbytes for each in own) / max(link.bytes_per_s for link in links)
            if own:
                began = min(0.0 if each.maker is None else schedule.parts[each.maker].end_s for each in own)
                assert max(each.end_s for each in own) - began >= card_s - 1e-9


# --- plans ---


@pytest.mark.parametrize("policy", get_args(Policy))
def test_a_plan_has_the_schedule_of_its_own_partitions_and_cuts(policy: Policy) -> None:
    plan = place(captured(*linears(6)), make_topology((PLENTY,) * 3), homes={}, policy=policy, seed=2)
    assert plan.schedule is not None
    assert [(p.index, p.device) for p in plan.schedule.parts] == [(p.index, p.device) for p in plan.partitions]
    crossing = [(t.value, t.source, t.target, t.nbytes) for t in plan.schedule.transfers if t.source != CLIENT]
    assert sorted(crossing) == sorted((c.value, c.source, c.target, c.nbytes) for c in plan.cuts)
    assert len(crossing) == (0 if policy == "semantic" else 4)
    assert max(part.end_s for part in plan.schedule.parts) == plan.step_s
