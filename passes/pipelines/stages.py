"""Stages of a pipeline: stretches of units, one a device, of which the longest is as short as it can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

from dynamo_genie.passes.placement.contiguous import earliest_begins, unit_seconds
from dynamo_genie.passes.placement.problem import Problem
from dynamo_genie.passes.placement.step_time import Devices


def balanced_stages(
    problem: Problem, order: Sequence[int], pinned: Mapping[int, int], lead: float = 1.0
) -> Devices | None:
    """Return the stage of each unit, counted along `order`; None where no such cut fits.

    The linear partition problem by dynamic programming over where stages end (Skiena 2008, The Algorithm Design Manual,
    §8.5), with what fits in a device's memory as a limit.

    Args:
        pinned: Units whose stage is given; they take no time here, but fill memory there.
        lead: How many times as long as the first stage the last one may be, and those between accordingly: where later
            pieces take longer, whoever has the last one should not wait for it.
    """
    units = len(problem.units)
    at_device = {unit: order[stage] for unit, stage in pinned.items()}
    longest = [0.0] + [float("inf")] * units
    begins: list[list[int]] = []
    for stage, device in enumerate(order):
        weight = lead ** (1 - stage / max(len(order) - 1, 1))
        work = (
            0.0 if unit in pinned else weight * seconds for unit, seconds in enumerate(unit_seconds(problem, device))
        )
        sums = list(accumulate(work, initial=0.0))
        earliest = earliest_begins(problem, device, at_device)
        found = [_best(longest, sums, earliest[end], end) for end in range(units + 1)]
        longest = [seconds for seconds, _ in found]
        begins.append([begin for _, begin in found])
    if longest[units] == float("inf"):
        return None
    stages, end = [0] * units, units
    for stage in reversed(range(len(order))):
        begin = begins[stage][end]
        stages[begin:end] = [stage] * (end - begin)
        end = begin
    return tuple(pinned.get(unit, stage) for unit, stage in enumerate(stages))


def _best(longest: Sequence[float], sums: Sequence[float], earliest: int, end: int) -> tuple[float, int]:
    """Return the shortest longest stage if a stage ends at a boundary, and where it begins."""
    options = ((max(longest[begin], sums[end] - sums[begin]), -begin) for begin in range(earliest, end + 1))
    seconds, begin = min(options, default=(float("inf"), -end))
    return seconds, -begin
