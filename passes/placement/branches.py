"""List scheduling of branches: parts that may run at the same time, each on the device where it ends first."""

from __future__ import annotations

from dataclasses import dataclass

from dynamo_genie.passes.placement.contiguous import unit_seconds
from dynamo_genie.passes.placement.memory import Ledger
from dynamo_genie.passes.placement.problem import Problem
from dynamo_genie.passes.placement.step_time import Devices, transfer_s


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
    units, work, traffic = _units(branches), _work(problem, branches), _traffic(problem, branches)
    ledger = Ledger(problem)
    chosen: list[int] = []
    ends: list[float] = []
    free = [0.0 for _ in problem.devices]
    for branch, inputs in enumerate(traffic):
        options = []
        for device in filter(lambda device: ledger.takes(units[branch], device), problem.devices):
            arrivals = (
                ends[b] + (0.0 if chosen[b] == device else transfer_s(problem, chosen[b], device, nbytes))
                for b, nbytes in inputs.items()
            )
            options.append((max(free[device], *arrivals, 0.0) + work[device][branch], device))
        if not options:
            return None
        end, device = min(options)
        ledger.put(units[branch], device)
        chosen.append(device)
        ends.append(end)
        free[device] = end
    return tuple(chosen[branch] for branch in branches.of)


def _units(branches: Branches) -> list[list[int]]:
    units: list[list[int]] = [[] for _ in branches.before]
    for unit, branch in enumerate(branches.of):
        units[branch].append(unit)
    return units


def _work(problem: Problem, branches: Branches) -> list[list[float]]:
    """Return, for each device, the seconds that each branch takes there."""
    work = [[0.0] * len(branches.before) for _ in problem.devices]
    for device in problem.devices:
        for branch, seconds in zip(branches.of, unit_seconds(problem, device), strict=True):
            work[device][branch] += seconds
    return work


def _traffic(problem: Problem, branches: Branches) -> list[dict[int, int]]:
    """Return, for each branch, the bytes that it reads of each other branch."""
    traffic: list[dict[int, int]] = [{} for _ in branches.before]
    for value in problem.values:
        maker = branches.of[value.maker]
        for reader in sorted({branches.of[unit] for unit in value.readers} - {maker}):
            traffic[reader][maker] = traffic[reader].get(maker, 0) + value.nbytes
    return traffic
