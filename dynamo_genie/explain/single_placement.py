"""The placement of a graph when there is one daemon to place it on: everything runs there. Pure."""

from __future__ import annotations

import math

from torch.fx import GraphModule

from dynamo_genie.explain.contraction import held_nbytes
from dynamo_genie.passes.graph_view import result_nodes
from dynamo_genie.passes.plan import DeviceLoad, Partition, PlacementPlan
from dynamo_genie.passes.semantics import Role
from dynamo_genie.passes.topology import Device, Topology


def place_on_one(gm: GraphModule, device: str) -> PlacementPlan:
    """Return the plan that runs all of `gm` on `device`; how long that takes is not known, so it says NaN."""
    placeholders = gm.graph.find_nodes(op="placeholder")
    calls = [node for node in gm.graph.nodes if node.op == "call_function"]
    results = dict.fromkeys(node.name for node in result_nodes(gm) if node.op == "call_function")
    names = [node.name for node in calls], [node.name for node in placeholders]
    partition = Partition(0, device, 0, tuple(names[0]), tuple(names[1]), tuple(results))
    written = {node.args[0] for node in calls if str(node.target) == "aten.copy_.default"}
    caches = [node for node in result_nodes(gm) if node.op == "call_function"]
    caches += [node for node in placeholders if node in written]
    load = DeviceLoad(
        device,
        held_nbytes(placeholders, Role.WEIGHT, Role.BUFFER),
        held_nbytes(caches, Role.KV_CACHE),
        math.nan,
    )
    return PlacementPlan("semantic", (partition,), (), (load,), math.nan, ("there is one daemon, and it runs all",))


def single_topology(device: str, memory_nbytes: int) -> Topology:
    """Return what is known of one daemon whose speed nobody measured."""
    return Topology((Device(device, memory_nbytes, math.nan, math.nan),), ())
