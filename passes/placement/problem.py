"""The placement problem in numbers: units, what passes between them, what each device takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import networkx as nx

from dynamo_genie.passes.graphs.semantics import Role
from dynamo_genie.passes.placement.contraction import Units, is_weight
from dynamo_genie.passes.placement.replication import with_sources
from dynamo_genie.passes.placement.roofline import operators_s
from dynamo_genie.passes.placement.topology import Topology

_GROWTH = 4
"""A prompt's cache may become four times as long before placement has miscounted: a guess, and no limit."""


@dataclass(frozen=True)
class Value:
    """A value that one unit makes and others read."""

    name: str
    maker: int
    readers: tuple[int, ...]
    nbytes: int
    role: str


@dataclass(frozen=True)
class Input:
    """An input of the graph with the units that read it; `homes` are the devices where it is, none: the client."""

    name: str
    readers: tuple[int, ...]
    nbytes: int
    role: str
    homes: tuple[int, ...]


@dataclass(frozen=True)
class Problem:
    """A placement problem, all that search and cost model look at; units and devices are numbers here.

    Attributes:
        units: In an order in which they can run.
        predecessors: For each unit those that must run before it.
        seconds: For each unit, what it takes on each device.
        weights: Inputs that stay in the daemon from call to call; they fill memory and are sent once.
        inputs: All other inputs; they are sent with each call to where they are not.
        cache_nbytes: For each unit, the bytes of caches that it leaves behind.
        reserved_nbytes: For each unit, the bytes kept free for its caches, what they may grow by, and other results:
            what training saves for its backward stays where it was made.
        allowed: For each unit, the devices on which it may run.
    """

    topology: Topology
    units: Units
    predecessors: tuple[tuple[int, ...], ...]
    seconds: tuple[tuple[float, ...], ...]
    values: tuple[Value, ...]
    weights: tuple[Input, ...]
    inputs: tuple[Input, ...]
    cache_nbytes: tuple[int, ...]
    reserved_nbytes: tuple[int, ...]
    allowed: tuple[tuple[int, ...], ...]

    @property
    def devices(self) -> range:
        return range(len(self.topology.devices))

    @cached_property
    def weights_of(self) -> tuple[tuple[int, ...], ...]:
        """For each unit, the positions in `weights` of those that it reads."""
        found: list[list[int]] = [[] for _ in self.units]
        for number, weight in enumerate(self.weights):
            for unit in weight.readers:
                found[unit].append(number)
        return tuple(map(tuple, found))


def make_problem(
    graph: nx.DiGraph, units: Units, replicable: frozenset[str], topology: Topology, homes: Mapping[str, frozenset[str]]
) -> Problem:
    """Return the placement problem of a contracted semantic graph."""
    pins = find_pins(graph, topology, homes)
    unit_of = {name: number for number, unit in enumerate(units) for name in unit}
    inputs = _inputs(graph, units, replicable, topology, homes)
    caches = tuple(sum(_cache_nbytes(graph, name) for name in unit) for unit in units)
    return Problem(
        topology=topology,
        units=units,
        predecessors=_predecessors(graph, units, unit_of),
        seconds=tuple(tuple(operators_s(graph, unit, device) for device in topology.devices) for unit in units),
        values=_values(graph, unit_of),
        weights=tuple(each for each in inputs if is_weight(graph.nodes[each.name])),
        inputs=tuple(each for each in inputs if not is_weight(graph.nodes[each.name])),
        cache_nbytes=caches,
        reserved_nbytes=tuple(
            _growth(graph) * cache + sum(_result_nbytes(graph, name) for name in unit)
            for cache, unit in zip(caches, units, strict=True)
        ),
        allowed=tuple(_allowed(unit, topology, pins) for unit in units),
    )


def _inputs(
    graph: nx.DiGraph, units: Units, replicable: frozenset[str], topology: Topology, homes: Mapping[str, frozenset[str]]
) -> list[Input]:
    readers: dict[str, list[int]] = {name: [] for name, node in graph.nodes.items() if node["op"] == "placeholder"}
    for number, unit in enumerate(units):
        for name in with_sources(graph, unit, replicable)[1]:
            readers[name].append(number)
    places = {device.name: index for index, device in enumerate(topology.devices)}
    found = []
    for name, units_reading in readers.items():
        node = graph.nodes[name]
        at = tuple(sorted(places[home] for home in homes.get(name, ()) if home in places))
        found.append(Input(name, tuple(units_reading), node["nbytes"], node["role"], at))
    return found


def _predecessors(graph: nx.DiGraph, units: Units, unit_of: Mapping[str, int]) -> tuple[tuple[int, ...], ...]:
    found: list[set[int]] = [set() for _ in units]
    for one, other in graph.edges:
        if one in unit_of and other in unit_of and unit_of[one] != unit_of[other]:
            found[unit_of[other]].add(unit_of[one])
    return tuple(tuple(sorted(each)) for each in found)


def _values(graph: nx.DiGraph, unit_of: Mapping[str, int]) -> tuple[Value, ...]:
    found = []
    for name, unit in unit_of.items():
        readers = {unit_of[r] for r, edge in graph.succ[name].items() if edge["reads"] and r in unit_of} - {unit}
        if readers:
            node = graph.nodes[name]
            found.append(Value(name, unit, tuple(sorted(readers)), node["nbytes"], node["role"]))
    return tuple(found)


def _result_nbytes(graph: nx.DiGraph, name: str) -> int:
    """Return the bytes of a result that is no cache; a view has its memory from something else."""
    node = graph.nodes[name]
    counts = node["result"] and not node["view"] and not _cache_nbytes(graph, name)
    return int(node["nbytes"]) if counts else 0


def _cache_nbytes(graph: nx.DiGraph, name: str) -> int:
    """Return the bytes of the cache that a node leaves behind: in the input that it writes, or as a result."""
    node = graph.nodes[name]
    written = sum(graph.nodes[w]["nbytes"] for w in node["writes"] if graph.nodes[w]["role"] == Role.KV_CACHE.value)
    return int(written or (node["nbytes"] if node["role"] == Role.KV_CACHE.value and node["result"] else 0))


def _growth(graph: nx.DiGraph) -> int:
    """Return how many times the caches of a graph may grow while the model generates.

    Caches that a graph makes are those of a prompt; were memory filled to the brim with them, the first steps after
    it would have to move weights. Caches that come in as inputs are where they are, whatever they grow to.
    """
    has_past = any(n["op"] == "placeholder" and n["role"] == Role.KV_CACHE.value for n in graph.nodes.values())
    return 1 if has_past else _GROWTH


def find_pins(graph: nx.DiGraph, topology: Topology, homes: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """Return the devices to which calls are bound: what they write to must be there, if it is anywhere."""
    names = frozenset(device.name for device in topology.devices)
    pins: dict[str, frozenset[str]] = {}
    for name, node in graph.nodes.items():
        for written in node["writes"]:
            if at := homes.get(written, frozenset()) & names:
                pins[name] = (pins.get(name, names) & at) or at
    return pins


def _allowed(unit: Iterable[str], topology: Topology, pins: Mapping[str, frozenset[str]]) -> tuple[int, ...]:
    allowed: frozenset[str] | None = None
    for name in unit:
        if name in pins:
            allowed = pins[name] if allowed is None else (allowed & pins[name]) or allowed
    return tuple(i for i, device in enumerate(topology.devices) if allowed is None or device.name in allowed)
