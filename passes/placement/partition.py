"""Partitions of a placement, written down as a plan: by name, with what each reads, makes and hands on."""

from __future__ import annotations

from collections.abc import Mapping

import networkx as nx

from dynamo_genie.passes.placement.memory import cache_nbytes, weight_nbytes
from dynamo_genie.passes.placement.plan import Cut, DeviceLoad, Partition, PlacementPlan, Policy
from dynamo_genie.passes.placement.problem import Problem
from dynamo_genie.passes.placement.replication import data_sources, with_sources
from dynamo_genie.passes.placement.score import Scored
from dynamo_genie.passes.placement.step_time import Parts, simulate, transfers


def make_plan(
    graph: nx.DiGraph,
    problem: Problem,
    replicable: frozenset[str],
    scored: Scored,
    policy: Policy,
    reasons: tuple[str, ...],
) -> PlacementPlan:
    """Return the plan for a placement."""
    return PlacementPlan(
        policy=policy,
        partitions=_partitions(graph, problem, scored.parts, replicable),
        cuts=_cuts(problem, scored.parts),
        loads=_loads(problem, scored),
        step_s=scored.time.step_s,
        reasons=reasons,
        schedule=simulate(problem, scored.parts)[1],
    )


def _partitions(graph: nx.DiGraph, problem: Problem, parts: Parts, replicable: frozenset[str]) -> tuple[Partition, ...]:
    place = {name: position for position, name in enumerate(graph)}
    own = _own_calls(problem, parts)
    extra = _made_anew(graph, own, replicable)
    maker = {name: part for part, names in enumerate(own) for name in names}
    for part, also in enumerate(extra):
        for name in also:
            maker.setdefault(name, part)
    read_elsewhere = _read_elsewhere(graph, own, maker)
    found = []
    for part, names in enumerate(own):
        made = {**dict.fromkeys(names), **extra[part]}
        sources = {source for name in made for source in data_sources(graph, name)} - made.keys()
        outputs = {n for n in made if maker[n] == part and (graph.nodes[n]["result"] or n in read_elsewhere)}
        found.append(
            Partition(
                index=part,
                device=problem.topology.devices[parts.device[part]].name,
                stage=parts.stage[part],
                nodes=tuple(
                    sorted((n for n in made if graph.nodes[n]["op"] == "call_function"), key=place.__getitem__)
                ),
                inputs=tuple(sorted(sources, key=place.__getitem__)),
                outputs=tuple(sorted(outputs, key=place.__getitem__)),
            )
        )
    return tuple(found)


def _own_calls(problem: Problem, parts: Parts) -> list[list[str]]:
    own: list[list[str]] = [[] for _ in parts.device]
    for unit, part in enumerate(parts.of):
        own[part].extend(problem.units[unit])
    return own


def _made_anew(graph: nx.DiGraph, own: list[list[str]], replicable: frozenset[str]) -> list[dict[str, None]]:
    """Return, for each partition, what it makes for itself; results that no partition reads come to the first."""
    extra = [with_sources(graph, names, replicable)[0] for names in own]
    for name in graph:
        if name in replicable and graph.nodes[name]["result"] and not any(name in names for names in extra) and extra:
            extra[0].update({name: None, **with_sources(graph, (name,), replicable)[0]})
    return extra


def _read_elsewhere(graph: nx.DiGraph, own: list[list[str]], maker: Mapping[str, int]) -> set[str]:
    return {
        source
        for part, names in enumerate(own)
        for name in names
        for source in data_sources(graph, name)
        if source in maker and maker[source] != part
    }


def _cuts(problem: Problem, parts: Parts) -> tuple[Cut, ...]:
    """Return what crosses between devices; inputs that come from the client are no cuts."""
    names = [device.name for device in problem.topology.devices]
    return tuple(
        Cut(each.name, names[each.source], names[each.target], each.nbytes, each.role)
        for each in transfers(problem, parts)
        if each.source is not None
    )


def _loads(problem: Problem, scored: Scored) -> tuple[DeviceLoad, ...]:
    weights = weight_nbytes(problem, scored.devices)
    caches = cache_nbytes(problem, scored.devices)
    return tuple(
        DeviceLoad(device.name, weights[index], caches[index], scored.time.busy_s[index])
        for index, device in enumerate(problem.topology.devices)
    )
