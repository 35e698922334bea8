"""Placement of a graph on devices: candidates are proposed, one cost model scores them, the cheapest is taken.

The same graph, devices, links and homes give the same plan, in every process.
"""

from __future__ import annotations

from collections.abc import Mapping

import networkx as nx
from torch.fx import GraphModule

from dynamo_genie.passes.placement.blind import place_blindly
from dynamo_genie.passes.placement.candidates import pack, propose
from dynamo_genie.passes.placement.contraction import Units, contract
from dynamo_genie.passes.placement.memory import does_not_fit, without_growth
from dynamo_genie.passes.placement.partition import make_plan
from dynamo_genie.passes.placement.plan import PlacementPlan, Policy
from dynamo_genie.passes.placement.problem import Problem, find_pins, make_problem
from dynamo_genie.passes.placement.replication import find_replicable
from dynamo_genie.passes.placement.score import Scored, improve, merge_parts, score
from dynamo_genie.passes.placement.semantic_graph import semantic_graph
from dynamo_genie.passes.placement.step_time import Devices
from dynamo_genie.passes.placement.topology import Topology

LEAST_GAIN = 0.05
"""The part of a call's time that a second device must save: speeds are measured, and no two are the same."""


def place(
    gm: GraphModule,
    topology: Topology,
    *,
    homes: Mapping[str, frozenset[str]],
    policy: Policy = "semantic",
    seed: int = 0,
) -> PlacementPlan:
    """Return where each part of `gm` runs.

    Args:
        gm: An annotated graph.
        topology: The devices and all links between them and the client.
        homes: The devices on which an input already is, by the name of its placeholder: any number for a weight,
            one for a remote tensor; inputs that are absent come from the client.
        policy: "semantic" looks for the shortest step; "blind" draws devices at random.
        seed: Of "blind".

    Raises:
        QuotaExceeded: The weights and caches of the graph fit on no choice of devices.
    """
    graph = semantic_graph(gm)
    replicable = find_replicable(graph, homes)
    pins = find_pins(graph, topology, homes)
    units = contract(graph, replicable, pins, grouped=policy == "semantic")
    if not units:  # nothing but cheap work: it is not worth a second device, so none of it is made twice
        replicable = frozenset(name for name in replicable if graph.nodes[name]["op"] == "get_attr")
        units = contract(graph, replicable, pins, grouped=policy == "semantic") or _constants_only(graph)
    problem = make_problem(graph, units, replicable, topology, homes)
    found = _solve(problem, policy, seed) or _solve(without_growth(problem), policy, seed)
    if found is None:
        raise does_not_fit(problem)
    return make_plan(graph, problem, replicable, found[0], policy, found[1])


def _constants_only(graph: nx.DiGraph) -> Units:
    """Return one empty unit for a graph that returns constants and runs nothing: some partition must hand them on."""
    held = any(node["result"] for node in graph.nodes.values() if node["op"] == "get_attr")
    return ((),) if held else ()


def _solve(problem: Problem, policy: Policy, seed: int) -> tuple[Scored, tuple[str, ...]] | None:
    """Return the placement to take and why, None where nothing fits."""
    found = _search(problem) if policy == "semantic" else _draw(problem, seed)
    if found is not None:
        return found
    packed = pack(problem)
    scored = score(problem, packed) if packed is not None else None
    return (scored, ("packed by memory alone, for nothing else fits",)) if scored is not None else None


def _search(problem: Problem) -> tuple[Scored, tuple[str, ...]] | None:
    best: Scored | None = None
    alone: tuple[Scored, str] | None = None
    idea = ""
    ideas = list(propose(problem))
    for words, devices in ideas:
        scored = score(problem, devices)
        if scored is None:
            continue
        if best is None or scored.rank < best.rank:
            best, idea = scored, words
        if (
            len(set(devices)) == 1
            and _moves_nothing(problem, devices)
            and (alone is None or scored.rank < alone[0].rank)
        ):
            alone = scored, words
    if best is None:
        return None
    final = merge_parts(problem, improve(problem, best))
    if alone is not None and alone[0].score_s * (1 - LEAST_GAIN) <= final.score_s:
        best, idea = alone
        final = best
    moved = sum(one != other for one, other in zip(best.devices, final.devices, strict=True))
    return final, (
        f"{idea}: cheapest of {len(ideas)} ideas, {best.time.step_s * 1e3:.3f} ms a call",
        f"then {moved} of {len(problem.units)} units moved: {final.time.step_s * 1e3:.3f} ms",
    )


def _moves_nothing(problem: Problem, devices: Devices) -> bool:
    """Say whether what is on some device already, weights aside, is where its readers are: the caches of a session."""
    return all(devices[unit] in each.homes for each in problem.inputs if each.homes for unit in each.readers)


def _draw(problem: Problem, seed: int) -> tuple[Scored, tuple[str, ...]] | None:
    devices = place_blindly(problem, seed)
    scored = score(problem, devices) if devices is not None else None
    words = f"a device at random for each of {len(problem.units)} units, seed {seed}"
    return (scored, (words,)) if scored is not None else None
