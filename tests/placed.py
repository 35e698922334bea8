"""Runs a graph in the partitions of a plan, in this process: what several daemons would do, without the daemons."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import permutations
from typing import Any

import torch
from torch._guards import TracingContext
from torch.fx import GraphModule, Node

from dynamo_genie.passes.analysis import Analysis, analyse
from dynamo_genie.passes.plan import PlacementPlan
from dynamo_genie.passes.portable import make_portable
from dynamo_genie.passes.roles import Origins
from dynamo_genie.passes.split import split
from dynamo_genie.passes.topology import CLIENT, Device, Link, Topology


def make_topology(
    memory: Iterable[int],
    *,
    flops_per_s: float = 1e11,
    memory_bytes_per_s: float = 2e10,
    latency_s: float = 1e-4,
    link_bytes_per_s: float = 1e9,
) -> Topology:
    """Devices named a, b, ... with the given bytes of memory, all as fast, and equal links between all ends."""
    names = "abcdefgh"
    devices = tuple(
        Device(name, nbytes, flops_per_s, memory_bytes_per_s) for name, nbytes in zip(names, memory, strict=False)
    )
    ends = (CLIENT, *(device.name for device in devices))
    return Topology(
        devices, tuple(Link(one, other, latency_s, link_bytes_per_s) for one, other in permutations(ends, 2))
    )


def annotate_captured(gm: GraphModule) -> tuple[GraphModule, Analysis]:
    """Rewrite and analyse a graph inside a capture, as the compiler does."""
    gm = make_portable(gm).graph_module
    metadata = TracingContext.try_get().fw_metadata if TracingContext.try_get() else None
    placeholders = gm.graph.find_nodes(op="placeholder")
    static = metadata.static_input_indices if metadata is not None else ()
    parameters = frozenset(
        i for i in static or () if i < len(placeholders) and isinstance(placeholders[i].meta.get("val"), torch.Tensor)
    )
    return gm, analyse(gm, Origins(parameters=parameters))


def run_in_partitions(gm: GraphModule, plan: PlacementPlan) -> Callable[..., Any]:
    """Return a function that runs the partitions in order; each sees nothing but its own inputs."""
    parts = split(gm, plan)
    placeholders = [node.name for node in gm.graph.find_nodes(op="placeholder")]
    results = gm.graph.output_node().args[0]

    def run(*args: Any) -> Any:
        values = dict(zip(placeholders, args, strict=True))
        for partition, part in zip(plan.partitions, parts, strict=True):
            made = part(*(values[name] for name in partition.inputs))
            assert not values.keys() & set(partition.outputs)
            values.update(zip(partition.outputs, made, strict=True))
        return tuple(values[each.name] if isinstance(each, Node) else each for each in results)

    return run


def check_plan(gm: GraphModule, plan: PlacementPlan, topology: Topology) -> None:
    """Assert what must hold of every plan, whatever its policy."""
    calls = [node.name for node in gm.graph.nodes if node.op == "call_function"]
    placed = [name for partition in plan.partitions for name in partition.nodes]
    assert set(placed) <= set(calls)
    needed = {node.name for node in gm.graph.nodes if node.op == "call_function" and (node.users or _has_effect(node))}
    assert needed <= set(placed)
    makers: dict[str, int] = {}
    for partition in plan.partitions:
        assert all(makers.get(name, -1) < partition.index for name in partition.inputs)
        for name in partition.inputs:
            if name in makers:
                assert plan.partitions[makers[name]].stage < partition.stage
        assert not makers.keys() & set(partition.outputs)
        makers.update(dict.fromkeys(partition.outputs, partition.index))
    for load in plan.loads:
        assert load.weight_nbytes + load.cache_nbytes <= topology.device(load.device).memory_nbytes


def _has_effect(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def weight_nbytes(gm: GraphModule) -> int:
    """Return the bytes of all weights of an annotated graph."""
    return sum(node.meta["val"].nbytes for node in weights(gm))


def weights(gm: GraphModule) -> list[Node]:
    return [n for n in gm.graph.find_nodes(op="placeholder") if is_persistent(n)]


def is_persistent(node: Node) -> bool:
    from dynamo_genie.passes.semantics import Residency, facts_of

    return facts_of(node).residency is Residency.PERSISTENT


Homes = Mapping[str, frozenset[str]]
