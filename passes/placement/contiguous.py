"""Contiguous splits, one stretch of units a device, as cheap as memory allows: dynamic programming over the cuts."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dynamo_genie.passes.placement.memory import unit_nbytes
from dynamo_genie.passes.placement.problem import Problem
from dynamo_genie.passes.placement.step_time import Devices, transfer_s

UPLOAD_SHARE = 0.01
"""How much of a weight's one upload is charged to a step: as if a placement served a hundred steps."""

_NEVER_S = 1e6  # a finite price, so that prefix sums stay numbers


@dataclass(frozen=True)
class _Stretch:
    """The cheapest way to run all units before a boundary on the first devices, and where the last one begins."""

    seconds: tuple[float, ...]
    begins: tuple[int, ...]


def split_contiguously(problem: Problem, order: Sequence[int], pinned: Mapping[int, int]) -> Devices | None:
    """Return the best placement in which the devices in `order` take one stretch of units each; None if none fits.

    Args:
        order: Devices; a device may end up with no stretch.
        pinned: Units that are somewhere already; they take no part, but fill memory there.
    """
    stretches: list[_Stretch] = []
    for rank, device in enumerate(order):
        before = stretches[-1] if stretches else None
        cuts = _cut_seconds(problem, order[rank - 1], device) if before else [0.0] * (len(problem.units) + 1)
        stretches.append(_extend(problem, device, pinned, before, cuts))
    end = len(problem.units)
    if not stretches or stretches[-1].seconds[end] == float("inf"):
        return None
    devices = [order[0]] * end
    for device, stretch in zip(reversed(order), reversed(stretches), strict=True):
        begin = stretch.begins[end]
        devices[begin:end] = [device] * (end - begin)
        end = begin
    return tuple(pinned.get(unit, device) for unit, device in enumerate(devices))


def _extend(
    problem: Problem, device: int, pinned: Mapping[int, int], before: _Stretch | None, cuts: Sequence[float]
) -> _Stretch:
    """Return the best ways to end at each boundary with a stretch on `device` after those in `before`."""
    work = _work(problem, device, pinned)
    earliest = earliest_begins(problem, device, pinned)
    seconds: list[float] = []
    begins: list[int] = []
    best: deque[tuple[float, int]] = deque()  # beginnings by rising price: a sliding minimum
    for end in range(len(problem.units) + 1):
        if before is not None or end == 0:
            price = (before.seconds[end] if before else 0.0) + cuts[end] - work[end]
            while best and best[-1][0] > price:
                best.pop()
            best.append((price, end))
        while best and best[0][1] < earliest[end]:
            best.popleft()
        found = (best[0][0] + work[end], best[0][1]) if best else (float("inf"), end)
        if before is not None and before.seconds[end] <= found[0]:
            found = (before.seconds[end], end)  # nothing on this device
        seconds.append(found[0])
        begins.append(found[1])
    return _Stretch(tuple(seconds), tuple(begins))


def unit_seconds(problem: Problem, device: int) -> list[float]:
    """Return what each unit costs on a device: its work, inputs that must come, a share of weights that must."""
    seconds = [
        own[device] if device in allowed else _NEVER_S
        for own, allowed in zip(problem.seconds, problem.allowed, strict=True)
    ]
    for inputs, share in ((problem.inputs, 1.0), (problem.weights, UPLOAD_SHARE)):
        for each in inputs:
            if device not in each.homes:
                source = each.homes[0] if each.homes else None
                for unit in each.readers:
                    seconds[unit] += share * transfer_s(problem, source, device, each.nbytes)
    return seconds


def _work(problem: Problem, device: int, pinned: Mapping[int, int]) -> list[float]:
    """Return the seconds of all units before each boundary."""
    sums = [0.0]
    for unit, seconds in enumerate(unit_seconds(problem, device)):
        sums.append(sums[-1] + (0.0 if unit in pinned else seconds))
    return sums


def earliest_begins(problem: Problem, device: int, pinned: Mapping[int, int]) -> list[int]:
    """Return, for each boundary, where a stretch that ends there may begin at the earliest and still fit."""
    weights_of = problem.weights_of
    uses: Counter[int] = Counter()
    filled = 0
    for unit, place in pinned.items():
        if place == device:
            filled += problem.reserved_nbytes[unit] + _enter(problem, weights_of[unit], uses)
    begin, earliest = 0, [0]
    room = problem.topology.devices[device].memory_nbytes
    for unit in range(len(problem.units)):
        if unit not in pinned:
            filled += problem.reserved_nbytes[unit] + _enter(problem, weights_of[unit], uses)
        while filled > room and begin <= unit:
            if begin not in pinned:
                filled -= problem.reserved_nbytes[begin] + _leave(problem, weights_of[begin], uses)
            begin += 1
        earliest.append(begin)
    return earliest


def _enter(problem: Problem, weights: Sequence[int], uses: Counter[int]) -> int:
    new = sum(problem.weights[weight].nbytes for weight in weights if not uses[weight])
    uses.update(weights)
    return new


def _leave(problem: Problem, weights: Sequence[int], uses: Counter[int]) -> int:
    uses.subtract(weights)
    return sum(problem.weights[weight].nbytes for weight in weights if not uses[weight])


def _cut_seconds(problem: Problem, source: int, target: int) -> list[float]:
    """Return what crosses at each boundary if everything before it is on one device and all after it on another."""
    crossing = [0] * (len(problem.units) + 1)
    for value in problem.values:
        crossing[value.maker + 1] += value.nbytes
        crossing[value.readers[-1] + 1] -= value.nbytes
    seconds, live = [], 0
    for change in crossing:
        live += change
        seconds.append(transfer_s(problem, source, target, live))
    return seconds


def shared_weights(problem: Problem) -> list[int]:
    """Return the units that read a weight which units far away read too, such as a tied embedding."""
    far = len(problem.units) // 4
    needed = unit_nbytes(problem)
    found = {
        unit
        for weight in problem.weights
        if weight.readers and weight.readers[-1] - weight.readers[0] > far
        for unit in weight.readers
        if 2 * weight.nbytes >= needed[unit]
    }
    return sorted(found)
