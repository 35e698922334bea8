"""Memory that a placement fills on each device, whether it fits, and the error where nothing does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from dynamo_genie.errors import QuotaExceeded
from dynamo_genie.passes.placement.problem import Problem
from dynamo_genie.quantities import nbytes_text


def weight_nbytes(problem: Problem, devices: Sequence[int]) -> list[int]:
    """Return the bytes of the weights on each device; one that is used on two devices counts on both."""
    filled = [0] * len(problem.devices)
    for weight in problem.weights:
        for device in sorted({devices[unit] for unit in weight.readers}):
            filled[device] += weight.nbytes
    return filled


def cache_nbytes(problem: Problem, devices: Sequence[int]) -> list[int]:
    """Return the bytes of the caches on each device."""
    filled = [0] * len(problem.devices)
    for unit, device in enumerate(devices):
        filled[device] += problem.cache_nbytes[unit]
    return filled


def fits(problem: Problem, devices: Sequence[int]) -> bool:
    """Say whether each device holds what it is asked to hold, reserves included, and each unit is where it may be."""
    if any(device not in problem.allowed[unit] for unit, device in enumerate(devices)):
        return False
    filled = weight_nbytes(problem, devices)
    for unit, device in enumerate(devices):
        filled[device] += problem.reserved_nbytes[unit]
    return all(nbytes <= device.memory_nbytes for nbytes, device in zip(filled, problem.topology.devices, strict=True))


def without_growth(problem: Problem) -> Problem:
    """Return a problem in which caches get no room to grow, for when nothing else fits."""
    return replace(problem, reserved_nbytes=problem.cache_nbytes)


def unit_nbytes(problem: Problem) -> list[int]:
    """Return the bytes that each unit needs where it runs: its weights, and what is reserved for its caches."""
    return [
        reserved + sum(problem.weights[weight].nbytes for weight in weights)
        for reserved, weights in zip(problem.reserved_nbytes, problem.weights_of, strict=True)
    ]


class Ledger:
    """Keeps count of what is on each device while units are given out one after another."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._there: list[set[int]] = [set() for _ in problem.devices]
        self.left = [device.memory_nbytes for device in problem.topology.devices]

    def needed(self, units: Iterable[int], device: int) -> int:
        """Return the bytes that units would add to a device, which may have some of their weights."""
        units = tuple(units)
        new = {weight for unit in units for weight in self._problem.weights_of[unit]} - self._there[device]
        caches = sum(self._problem.reserved_nbytes[unit] for unit in units)
        return caches + sum(self._problem.weights[weight].nbytes for weight in new)

    def takes(self, units: Iterable[int], device: int) -> bool:
        """Say whether units still fit on a device, and may run there."""
        units = tuple(units)
        allowed = all(device in self._problem.allowed[unit] for unit in units)
        return allowed and self.needed(units, device) <= self.left[device]

    def put(self, units: Iterable[int], device: int) -> None:
        """Give units to a device."""
        units = tuple(units)
        self.left[device] -= self.needed(units, device)
        self._there[device].update(weight for unit in units for weight in self._problem.weights_of[unit])


def does_not_fit(problem: Problem) -> QuotaExceeded:
    """Return the error that says what was needed and what is there."""
    weights = sum(weight.nbytes for weight in problem.weights if weight.readers)
    caches = sum(problem.cache_nbytes)
    largest = max(unit_nbytes(without_growth(problem)), default=0)
    there = ", ".join(f"{device.name} {nbytes_text(device.memory_nbytes)}" for device in problem.topology.devices)
    return QuotaExceeded(
        f"the graph fits on no daemon, nor spread over all of them: it needs {nbytes_text(weights)} of weights and "
        f"{nbytes_text(caches)} of caches, the largest part that cannot be divided {nbytes_text(largest)}; "
        f"there is {there}. "
        "Start a daemon with a larger --memory-limit, or add another one to daemons=[...]"
    )
