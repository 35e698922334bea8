"""Step time of a placement, the seconds of one call: a simulation by which every candidate is scored.

A device works on one partition at a time and begins when all that the partition reads has arrived. A link carries one
value at a time, while devices work. Fetching results is left out: what is read of them, the graph does not say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter

from dynamo_genie.passes.placement.problem import Input, Problem
from dynamo_genie.passes.placement.topology import CLIENT

Devices = tuple[int, ...]
"""A device for each unit."""

_PARTITION_S = 50e-6
"""What starting one partition takes beside the latency of its link: a message, and looking up its buffers."""


@dataclass(frozen=True)
class Parts:
    """Units gathered into partitions: `of` gives each unit its part; parts are numbered in an order they can run in."""

    of: tuple[int, ...]
    device: tuple[int, ...]
    stage: tuple[int, ...]


@dataclass(frozen=True)
class StepTime:
    """Predicted seconds of one call, and how long each device works in it."""

    step_s: float
    busy_s: tuple[float, ...]


@dataclass(frozen=True)
class Transfer:
    """One value on its way to a device in every call; made by a part, or by None where it is an input."""

    name: str
    source: int | None
    target: int
    nbytes: int
    role: str
    maker: int | None
    readers: tuple[int, ...]


def parts_of(problem: Problem, devices: Devices) -> Parts:
    """Gather units by stage and device: a unit's stage is one more than that of what it reads from elsewhere."""
    stages: list[int] = []
    for unit, before in enumerate(problem.predecessors):
        here = devices[unit]
        stages.append(max((stages[other] + (devices[other] != here) for other in before), default=0))
    return number_parts(problem, list(zip(stages, devices, strict=True)))


def number_parts(problem: Problem, keys: Sequence[tuple[int, int]]) -> Parts:
    """Return the parts that units with equal keys (anything, device) make, numbered by stage and device.

    Raises:
        graphlib.CycleError: Two parts would wait for one another.
    """
    before: dict[tuple[int, int], set[tuple[int, int]]] = {key: set() for key in sorted(set(keys))}
    for unit, others in enumerate(problem.predecessors):
        before[keys[unit]].update(keys[other] for other in others if keys[other] != keys[unit])
    stage: dict[tuple[int, int], int] = {}
    for key in TopologicalSorter(before).static_order():
        stage[key] = max((stage[other] + 1 for other in before[key]), default=0)
    final = sorted(before, key=lambda key: (stage[key], key[1], key[0]))
    number = {key: position for position, key in enumerate(final)}
    return Parts(tuple(number[key] for key in keys), tuple(key[1] for key in final), tuple(stage[key] for key in final))


def transfers(problem: Problem, parts: Parts) -> Iterator[Transfer]:
    """Yield what crosses to each device in one call: inputs that are elsewhere, then values that others read."""
    for each in problem.inputs:
        for target, readers in _by_device((parts.of[unit] for unit in each.readers), parts).items():
            if target not in each.homes:
                source = _nearest(problem, each, target)
                yield Transfer(each.name, source, target, each.nbytes, each.role, None, readers)
    for value in problem.values:
        maker = parts.of[value.maker]
        for target, readers in _by_device((parts.of[unit] for unit in value.readers), parts).items():
            if target != parts.device[maker]:
                yield Transfer(value.name, parts.device[maker], target, value.nbytes, value.role, maker, readers)


def predict(problem: Problem, parts: Parts) -> StepTime:
    """Simulate one call."""
    work = [0.0] * len(parts.device)
    for unit, part in enumerate(parts.of):
        work[part] += problem.seconds[unit][parts.device[part]]
    sent: dict[int | None, list[Transfer]] = defaultdict(list)
    for transfer in transfers(problem, parts):
        sent[transfer.maker].append(transfer)
    ready = [_link(problem, None, device)[0] for device in parts.device]
    free_device = [0.0] * len(problem.devices)
    free_link: dict[tuple[int | None, int], float] = defaultdict(float)
    _send(problem, sent[None], 0.0, free_link, ready)
    before = _parts_before(problem, parts)
    finished: list[float] = []
    for part, device in enumerate(parts.device):
        start = max(ready[part], free_device[device], *(finished[other] for other in before[part]), 0.0)
        finished.append(start + _PARTITION_S + work[part])
        free_device[device] = finished[part]
        _send(problem, sent[part], finished[part], free_link, ready)
    busy = [0.0] * len(problem.devices)
    for part, device in enumerate(parts.device):
        busy[device] += work[part]
    return StepTime(max(finished, default=0.0), tuple(busy))


def transfer_s(problem: Problem, source: int | None, target: int, nbytes: int) -> float:
    """Return the seconds that bytes take from a device, or from the client (None), to a device."""
    latency_s, seconds_per_byte = _link(problem, source, target)
    return latency_s + nbytes * seconds_per_byte


def _link(problem: Problem, source: int | None, target: int) -> tuple[float, float]:
    names = problem.topology.devices
    link = problem.topology.link(CLIENT if source is None else names[source].name, names[target].name)
    return link.latency_s, 1 / link.bytes_per_s


def _send(
    problem: Problem,
    waiting: Sequence[Transfer],
    now: float,
    free_link: dict[tuple[int | None, int], float],
    ready: list[float],
) -> None:
    """Put transfers on their links one after another; parts that read them are ready when they have arrived."""
    for transfer in waiting:
        ends = (transfer.source, transfer.target)
        latency_s, seconds_per_byte = _link(problem, *ends)
        free_link[ends] = max(free_link[ends], now) + transfer.nbytes * seconds_per_byte
        for reader in transfer.readers:
            ready[reader] = max(ready[reader], free_link[ends] + latency_s)


def _nearest(problem: Problem, each: Input, target: int) -> int | None:
    """Return the home from which an input comes to a device soonest."""
    return min(each.homes, key=lambda home: (transfer_s(problem, home, target, each.nbytes), home), default=None)


def _by_device(readers: Iterator[int], parts: Parts) -> dict[int, tuple[int, ...]]:
    found: dict[int, dict[int, None]] = {}
    for part in sorted(set(readers)):
        found.setdefault(parts.device[part], {})[part] = None
    return {device: tuple(those) for device, those in found.items()}


def _parts_before(problem: Problem, parts: Parts) -> list[set[int]]:
    before: list[set[int]] = [set() for _ in parts.device]
    for unit, others in enumerate(problem.predecessors):
        before[parts.of[unit]].update(parts.of[other] for other in others)
    return [others - {part} for part, others in enumerate(before)]
