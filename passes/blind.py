"""Placement that knows nothing of what values mean: a device at random for each unit, as far as memory allows."""

from __future__ import annotations

from random import Random

from dynamo_genie.passes.memory import fits
from dynamo_genie.passes.problem import Problem
from dynamo_genie.passes.step_time import Devices

_ATTEMPTS = 20


def place_blindly(problem: Problem, seed: int) -> Devices | None:
    """Return a random placement that fits; None where many attempts found none.

    A weight that is on some device already stays there: else each graph of a model would draw anew, and after a few
    graphs every device would hold every weight.
    """
    for attempt in range(_ATTEMPTS):
        random = Random(f"{seed}/{attempt}")  # a string seeds the same on every machine and in every process
        devices = _draw(problem, random)
        if fits(problem, devices):
            return devices
    return None


def _draw(problem: Problem, random: Random) -> Devices:
    homes: dict[int, tuple[int, ...]] = {}
    for weight in problem.weights:
        for unit in weight.readers:
            homes.setdefault(unit, weight.homes or homes.get(unit, ()))
    left = [device.memory_nbytes for device in problem.topology.devices]
    there: list[set[str]] = [set() for _ in problem.devices]
    weights_of: list[list[tuple[str, int]]] = [[] for _ in problem.units]
    for weight in problem.weights:
        for unit in weight.readers:
            weights_of[unit].append((weight.name, weight.nbytes))
    chosen: list[int] = []
    for unit, allowed in enumerate(problem.allowed):
        needs = [
            problem.reserved_nbytes[unit] + sum(n for name, n in weights_of[unit] if name not in there[device])
            for device in problem.devices
        ]
        options = [d for d in allowed if d in homes.get(unit, ())] or list(allowed)
        options = [d for d in options if needs[d] <= left[d]] or options
        device = random.choice(options)
        left[device] -= needs[device]
        there[device].update(name for name, _ in weights_of[unit])
        chosen.append(device)
    return tuple(chosen)
