"""Stages: the longest is as short as any cut makes it, and what does not fit in memory is no cut."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations_with_replacement

import pytest

from dynamo_genie.passes.pipelines.stages import balanced_stages
from dynamo_genie.passes.placement.memory import fits
from dynamo_genie.passes.placement.problem import Problem
from tests.passes.placement.test_step_time import GB, problem_of


def chain(seconds: Sequence[float], reserved: Sequence[int] = (), memory: Sequence[int] = (GB, GB, GB)) -> Problem:
    """Units one after the other, each with its seconds, and bytes that it needs."""
    problem = problem_of([(i - 1,) if i else () for i in range(len(seconds))], memory=memory)
    return replace(
        problem,
        seconds=tuple((each,) * 3 for each in seconds),
        reserved_nbytes=tuple(reserved or (0,) * len(seconds)),
    )


def all_cuts(units: int, stages: int) -> Iterator[tuple[int, ...]]:
    for ends in combinations_with_replacement(range(units + 1), stages - 1):
        yield tuple(sum(unit >= end for end in ends) for unit in range(units))


def longest(problem: Problem, stages: Sequence[int]) -> float:
    return max(sum(s[0] for s, at in zip(problem.seconds, stages, strict=True) if at == stage) for stage in range(3))


@pytest.mark.parametrize("seed", range(20))
def test_no_cut_has_a_shorter_longest_stage(seed: int) -> None:
    draw = random.Random(seed)
    units = draw.randint(3, 8)
    sizes = [draw.choice([0, GB // 4, GB // 2]) for _ in range(units)]
    problem = chain([draw.randint(1, 9) for _ in range(units)], sizes)
    possible = [cut for cut in all_cuts(units, 3) if fits(problem, cut)]
    found = balanced_stages(problem, (0, 1, 2), {})
    if not possible:
        assert found is None
        return
    assert found is not None
    assert fits(problem, found)
    assert longest(problem, found) == min(longest(problem, cut) for cut in possible)


def test_stages_follow_the_order_of_devices_and_not_their_numbers() -> None:
    problem = chain([1, 1, 1, 1], [GB // 2, 0, GB, 0], memory=(GB // 4, GB, GB))
    assert balanced_stages(problem, (1, 2), {}) == (0, 0, 1, 1)
    assert balanced_stages(problem, (0, 1), {}) is None


def test_pinned_units_stay_and_take_no_time_there() -> None:
    problem = chain([1, 1, 1, 9])
    assert balanced_stages(problem, (0, 1), {3: 0}) in {(0, 0, 1, 0), (0, 1, 1, 0)}


def test_a_lead_makes_the_last_stage_longer() -> None:
    problem = chain([1] * 12)
    assert balanced_stages(problem, (0, 1), {}) == (0,) * 6 + (1,) * 6
    assert balanced_stages(problem, (0, 1), {}, lead=1.4) == (0,) * 5 + (1,) * 7
