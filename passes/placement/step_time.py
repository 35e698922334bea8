"""Step time of a placement, the seconds of one call: a simulation by which every candidate is scored.

A device works on one partition at a time and begins when all that the partition reads has arrived. A link carries one
value at a time, while devices work. Links share the network card of an end, a device or the client, one card for what
leaves and one for what arrives. That two daemons of one machine share a card, nobody says, so they have one each.
Fetching results is left out: what is read of them, the graph does not say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple, TypeAlias

from dynamo_genie.passes.placement.problem import Input, Problem
from dynamo_genie.passes.placement.schedule import Schedule, ScheduledPart, ScheduledTransfer
from dynamo_genie.passes.placement.topology import CLIENT, LinkCost

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


_Note: TypeAlias = Callable[[Transfer, float, float, float], None]
"""Is told of a transfer: when it starts, when its link is free again, when it arrives."""


def parts_of(problem: Problem, devices: Devices) -> Parts:
    """Gather units by stage and device: a unit's stage is one more than that of what it reads from elsewhere."""
    stages: list[int] = []
    for unit, before in enumerate(problem.predecessors):
        here = devices[unit]
        stages.append(max((stages[other] + (devices[other] != here) for other in before), default=0))
    return number_parts(problem, list(zip(stages, devices, strict=True)))


def number_parts(problem: Problem, keys: Sequence[tuple[int, int]], *, in_turn: bool = False) -> Parts:
    """Return the parts that units with equal keys (turn, device) make, numbered by stage and device, or as turns say.

    Numbers are the order in which parts are sent, and a value leaves its device behind what was sent there before its
    first reader: so pieces of a pipeline go in turn.

    Raises:
        graphlib.CycleError: Two parts would wait for one another, or for a later turn.
    """
    before: dict[tuple[int, int], set[tuple[int, int]]] = {key: set() for key in sorted(set(keys))}
    for unit, others in enumerate(problem.predecessors):
        before[keys[unit]].update(keys[other] for other in others if keys[other] != keys[unit])
    stage: dict[tuple[int, int], int] = {}
    for key in TopologicalSorter(before).static_order():
        stage[key] = max((stage[other] + 1 for other in before[key]), default=0)
    final = sorted(before, key=None if in_turn else lambda key: (stage[key], key[1], key[0]))
    number = {key: position for position, key in enumerate(final)}
    late = [(other, key) for key, others in before.items() for other in others if number[other] > number[key]]
    if late:
        raise CycleError("a part would wait for a later turn", late)
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
    return _step_time(problem, parts, _run(problem, parts))


def simulate(problem: Problem, parts: Parts) -> tuple[StepTime, Schedule]:
    """Simulate one call as `predict` does, and write down what happened when."""
    carried: list[ScheduledTransfer] = []
    names = [device.name for device in problem.topology.devices]

    def note(transfer: Transfer, start_s: float, end_s: float, arrives_s: float) -> None:
        ends = CLIENT if transfer.source is None else names[transfer.source], names[transfer.target]
        times = start_s, end_s, arrives_s
        carried.append(
            ScheduledTransfer(transfer.name, *ends, transfer.nbytes, *times, transfer.maker, transfer.readers)
        )

    run = _run(problem, parts, note)
    placed = enumerate(zip(parts.device, run.started, run.ended, strict=True))
    found = tuple(ScheduledPart(part, names[device], start, end) for part, (device, start, end) in placed)
    return _step_time(problem, parts, run), Schedule(found, tuple(carried))


def transfer_s(problem: Problem, source: int | None, target: int, nbytes: int) -> float:
    """Return the seconds that bytes take from a device, or from the client (None), to a device."""
    cost = problem.topology.link_costs[source, target]
    return cost.latency_s + nbytes * cost.link_s_per_byte


def _step_time(problem: Problem, parts: Parts, run: _Run) -> StepTime:
    busy = [0.0] * len(problem.devices)
    for device, seconds in zip(parts.device, run.work, strict=True):
        busy[device] += seconds
    return StepTime(max(run.ended, default=0.0), tuple(busy))


def _run(problem: Problem, parts: Parts, note: _Note | None = None) -> _Run:
    """Let one call happen; `note` is told of each transfer, where somebody wants to know."""
    work = [0.0] * len(parts.device)
    for unit, part in enumerate(parts.of):
        work[part] += problem.seconds[unit][parts.device[part]]
    sent: dict[int | None, list[Transfer]] = defaultdict(list)
    for transfer in transfers(problem, parts):
        sent[transfer.maker].append(transfer)
    network = _Network(problem.topology.link_costs, note)
    ready = [problem.topology.link_costs[None, device].latency_s for device in parts.device]
    free_device = [0.0] * len(problem.devices)
    network.send(sent[None], 0.0, ready)
    before = _parts_before(problem, parts)
    started: list[float] = []
    ended: list[float] = []
    for part, device in enumerate(parts.device):
        started.append(max(ready[part], free_device[device], *(ended[other] for other in before[part]), 0.0))
        ended.append(started[part] + _PARTITION_S + work[part])
        free_device[device] = ended[part]
        network.send(sent[part], ended[part], ready)
    return _Run(started, ended, work)


class _Run(NamedTuple):
    """When each part of a call starts and ends, and how long it works in between."""

    started: list[float]
    ended: list[float]
    work: list[float]


class _Network:
    """The links and network cards of one call, each with the time at which it has carried all that it was given.

    A link is taken from a value's first byte to its last. A card is only owed the time that the bytes take it: a value
    that waits for its link or for the card at its other end holds up no other value.
    """

    def __init__(self, link_costs: Mapping[tuple[int | None, int], LinkCost], note: _Note | None) -> None:
        self._costs = link_costs
        self._note = note
        self._link: dict[tuple[int | None, int], float] = defaultdict(float)
        self._source_card: dict[int | None, float] = defaultdict(float)
        self._target_card: dict[int, float] = defaultdict(float)

    def send(self, waiting: Sequence[Transfer], now: float, ready: list[float]) -> None:
        """Send values in their order; parts that read them are ready when they have arrived."""
        for transfer in waiting:
            source, target, nbytes = transfer.source, transfer.target, transfer.nbytes
            cost = self._costs[source, target]
            leaves, enters = max(self._source_card[source], now), max(self._target_card[target], now)
            start = max(self._link[source, target], leaves, enters)
            end = self._link[source, target] = start + nbytes * cost.link_s_per_byte
            self._source_card[source] = leaves + nbytes * cost.source_card_s_per_byte
            self._target_card[target] = enters + nbytes * cost.target_card_s_per_byte
            arrives = end + cost.latency_s
            for reader in transfer.readers:
                ready[reader] = max(ready[reader], arrives)
            if self._note is not None:
                self._note(transfer, start, end, arrives)


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
