"""Finds the parts of a graph that may run at the same time, and gives each to the device where it ends first."""

from __future__ import annotations

from dataclasses import dataclass

from dynamo_genie.passes.contiguous import unit_seconds
from dynamo_genie.passes.problem import Problem
from dynamo_genie.passes.step_time import Devices, transfer_s


@dataclass(frozen=True)
class Branches:
    """Units in branches that depend on one another only as a whole: `of` gives each unit its branch."""

    of: tuple[int, ...]
    before: tuple[tuple[int, ...], ...]


def find_branches(problem: Problem) -> Branches:
    """Return the branches of a graph: where branches meet that know nothing of one another, a new one begins.

    A branch that already depends on all the others that it meets goes on, as a decoder does that looks at an encoder
    in each of its layers.
    """
    of: list[int] = []
    before: list[frozenset[int]] = []
    for others in problem.predecessors:
        met = sorted({of[other] for other in others})
        going_on = next((branch for branch in met if before[branch].issuperset(set(met) - {branch})), None)
        if going_on is None:
            going_on = len(before)
            before.append(frozenset(met).union(*(before[branch] for branch in met)))
        of.append(going_on)
    return Branches(tuple(of), tuple(tuple(sorted(each)) for each in before))


def schedule_branches(problem: Problem) -> Devices | None:
    """Return a placement by list scheduling (Topcuoglu et al. 2002, HEFT); None where some branch fits nowhere.

    Branches come in an order in which they can run, and each goes to the device on which it ends first.
    """
    branches = find_branches(problem)
    n_branches = len(branches.before)
    costs = [unit_seconds(problem, device) for device in problem.devices]
    work = [[0.0] * n_branches for _ in problem.devices]
    for unit, branch in enumerate(branches.of):
        for device in problem.devices:
            work[device][branch] += costs[device][unit]
    traffic = _traffic(problem, branches)
    room = _Room(problem, branches)
    chosen: list[int] = []
    ends: list[float] = []
    free = [0.0 for _ in problem.devices]
    for branch in range(n_branches):
        options = []
        for device in problem.devices:
            arrived = max(
                (ends[b] + _cross(problem, chosen[b], device, n) for b, n in traffic[branch].items()), default=0.0
            )
            if room.takes(branch, device):
                options.append((max(free[device], arrived) + work[device][branch], device))
        if not options:
            return None
        end, device = min(options)
        room.add(branch, device)
        chosen.append(device)
        ends.append(end)
        free[device] = end
    return tuple(chosen[branch] for branch in branches.of)


def _cross(problem: Problem, source: int, target: int, nbytes: int) -> float:
    return 0.0 if source == target else transfer_s(problem, source, target, nbytes)


def _traffic(problem: Problem, branches: Branches) -> list[dict[int, int]]:
    """Return, for each branch, the bytes that it reads of each other branch."""
    traffic: list[dict[int, int]] = [{} for _ in branches.before]
    for value in problem.values:
        maker = branches.of[value.maker]
        for reader in sorted({branches.of[unit] for unit in value.readers} - {maker}):
            traffic[reader][maker] = traffic[reader].get(maker, 0) + value.nbytes
    return traffic


class _Room:
    """Keeps count of what is on each device while branches are given out."""

    def __init__(self, problem: Problem, branches: Branches) -> None:
        self._weights: list[dict[int, int]] = [{} for _ in branches.before]
        self._caches = [0] * len(branches.before)
        for number, weight in enumerate(problem.weights):
            for unit in weight.readers:
                self._weights[branches.of[unit]][number] = weight.nbytes
        for unit, branch in enumerate(branches.of):
            self._caches[branch] += problem.reserved_nbytes[unit]
        self._there: list[set[int]] = [set() for _ in problem.devices]
        self._left = [device.memory_nbytes for device in problem.topology.devices]

    def takes(self, branch: int, device: int) -> bool:
        return self._new_nbytes(branch, device) <= self._left[device]

    def add(self, branch: int, device: int) -> None:
        self._left[device] -= self._new_nbytes(branch, device)
        self._there[device].update(self._weights[branch])

    def _new_nbytes(self, branch: int, device: int) -> int:
        there = self._there[device]
        new = sum(nbytes for weight, nbytes in self._weights[branch].items() if weight not in there)
        return new + self._caches[branch]
