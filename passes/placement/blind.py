"""Blind placement, which knows no meaning of values: a device at random for each unit, as far as memory allows."""

from __future__ import annotations

from random import Random

from dynamo_genie.passes.placement.memory import Ledger, fits
from dynamo_genie.passes.placement.problem import Problem
from dynamo_genie.passes.placement.step_time import Devices

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
    """Draw a device for each unit: one that has its weights, where any has, and room for it, where any has that."""
    ledger = Ledger(problem)
    chosen: list[int] = []
    for unit, allowed in enumerate(problem.allowed):
        homes = {home for weight in problem.weights_of[unit] for home in problem.weights[weight].homes}
        options = [device for device in allowed if device in homes] or list(allowed)
        device = random.choice([each for each in options if ledger.takes((unit,), each)] or options)
        ledger.put((unit,), device)
        chosen.append(device)
    return tuple(chosen)
