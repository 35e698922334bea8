"""Runs graphs in the partitions of a plan, in this process: what several daemons would do, without the daemons."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import torch
from torch._guards import TracingContext
from torch.fx import GraphModule, Node

from dynamo_genie.passes.graphs.origins import Origins
from dynamo_genie.passes.graphs.semantics import Residency, facts_of
from dynamo_genie.passes.placement.placement import place
from dynamo_genie.passes.placement.plan import PlacementPlan, Policy
from dynamo_genie.passes.placement.split import split
from dynamo_genie.passes.placement.topology import CLIENT, Device, Link, Topology
from dynamo_genie.passes.rewrites.portable import make_portable
from dynamo_genie.passes.understanding.analysis import Analysis, analyse

PLENTY = 1 << 40

Homes = Mapping[str, frozenset[str]]


def make_topology(
    memory: Iterable[int],
    *,
    flops_per_s: float = 1e11,
    memory_bytes_per_s: float = 2e10,
    latency_s: float = 1e-4,
    link_bytes_per_s: float = 1e9,
) -> Topology:
    """Devices named a, b, ... with the given bytes of memory, all as fast, and equal links between all ends."""
    devices = tuple(
        Device(name, nbytes, flops_per_s, memory_bytes_per_s) for name, nbytes in zip("abcdefgh", memory, strict=False)
    )
    ends = (CLIENT, *(device.name for device in devices))
    links = (Link(one, other, latency_s, link_bytes_per_s) for one, other in permutations(ends, 2))
    return Topology(devices, tuple(links))


def prepare(gm: GraphModule) -> tuple[GraphModule, Analysis]:
    """Rewrite and annotate a graph inside a capture, as the compiler does."""
    gm = make_portable(gm).graph_module
    context = TracingContext.try_get()
    static = context.fw_metadata.static_input_indices if context and context.fw_metadata else ()
    inputs = dict(enumerate(gm.graph.find_nodes(op="placeholder")))
    parameters = frozenset(i for i in static or () if i in inputs and is_tensor(inputs[i]))
    analysis = analyse(gm, Origins(parameters=parameters))
    return gm, analysis


def is_tensor(node: Node) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor)


def is_weight(node: Node) -> bool:
    return node.op == "placeholder" and facts_of(node).residency is Residency.PERSISTENT


def weight_nbytes(gm: GraphModule) -> int:
    """Return the bytes of all weights of an annotated graph."""
    return sum(node.meta["val"].nbytes for node in gm.graph.find_nodes(op="placeholder") if is_weight(node))


def run_in_partitions(gm: GraphModule, plan: PlacementPlan, seed: int = 0) -> Callable[..., Any]:
    """Return a function that runs the partitions; each sees nothing but its own inputs.

    Partitions of one stage run in an order drawn by `seed`, for they may not depend on one another.
    """
    parts = dict(zip(plan.partitions, split(gm, plan.partitions), strict=True))
    placeholders = [node.name for node in gm.graph.find_nodes(op="placeholder")]
    results = gm.graph.output_node().args[0]
    draw = random.Random(seed)
    order = sorted(plan.partitions, key=lambda partition: (partition.stage, draw.random()))

    def run(*args: Any) -> Any:
        values = dict(zip(placeholders, args, strict=True))
        for partition in order:
            made = parts[partition](*(values[name] for name in partition.inputs))
            assert not values.keys() & set(partition.outputs)
            values.update(zip(partition.outputs, made, strict=True))
        return tuple(values[each.name] if isinstance(each, Node) else each for each in results)

    return run


@dataclass
class Daemons:
    """Stands where a compiler stands in `capture`: places each graph when it is called, by where its inputs are.

    Attributes:
        memory: The bytes of each device: given, or made of the bytes of the weights of a graph.
        seen: Each graph with its plan, in the order of calls.
    """

    memory: Callable[[int], tuple[int, ...]]
    policy: Policy = "semantic"
    seed: int = 0
    scattered: bool = False
    links: dict[str, float] = field(default_factory=dict)
    seen: list[tuple[GraphModule, PlacementPlan]] = field(default_factory=list)
    _homes: dict[int, frozenset[str]] = field(default_factory=dict)
    _kept: list[torch.Tensor] = field(default_factory=list)  # so that no address is used twice

    def __call__(self, gm: GraphModule) -> Callable[..., Any]:
        gm, _ = prepare(gm)
        topology = make_topology(self.memory(weight_nbytes(gm)), **self.links)
        placeholders = gm.graph.find_nodes(op="placeholder")

        def run(*args: Any) -> Any:
            homes = self._find_homes(placeholders, args, topology)
            plan = place(gm, topology, homes=homes, policy=self.policy, seed=self.seed)
            check_plan(gm, plan, topology, homes)
            self.seen.append((gm, plan))
            results = run_in_partitions(gm, plan, self.seed)(*args)
            self._note_homes(gm, plan, dict(zip((node.name for node in placeholders), args, strict=True)), results)
            return results

        return run

    @property
    def plans(self) -> list[PlacementPlan]:
        return [plan for _, plan in self.seen]

    def _find_homes(self, placeholders: list[Node], args: tuple[Any, ...], topology: Topology) -> Homes:
        if self.scattered:
            return scattered_homes(placeholders, topology, self.seed)
        tensors = {n.name: arg for n, arg in zip(placeholders, args, strict=True) if isinstance(arg, torch.Tensor)}
        return {name: self._homes[_address(t)] for name, t in tensors.items() if _address(t) in self._homes}

    def _note_homes(self, gm: GraphModule, plan: PlacementPlan, inputs: dict[str, Any], results: Iterable[Any]) -> None:
        for partition in plan.partitions:
            for name in partition.inputs:
                if name in inputs and is_weight(next(n for n in gm.graph.nodes if n.name == name)):
                    self._note(inputs[name], self._homes.get(_address(inputs[name]), frozenset()) | {partition.device})
        makers = {name: partition.device for partition in plan.partitions for name in partition.outputs}
        for node, result in zip(gm.graph.output_node().args[0], results, strict=True):
            if isinstance(result, torch.Tensor) and node.name in makers:
                self._note(result, frozenset({makers[node.name]}))

    def _note(self, tensor: torch.Tensor, homes: frozenset[str]) -> None:
        self._kept.append(tensor)
        self._homes[_address(tensor)] = homes


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def scattered_homes(placeholders: Iterable[Node], topology: Topology, seed: int) -> Homes:
    """Return homes drawn at random: weights on any devices, other tensors on one or with the client."""
    draw = random.Random(seed)
    names = [device.name for device in topology.devices]
    homes: dict[str, frozenset[str]] = {}
    for node in placeholders:
        if is_weight(node):
            homes[node.name] = frozenset(draw.sample(names, draw.randint(0, len(names))))
        elif is_tensor(node) and draw.random() < 0.7:
            homes[node.name] = frozenset({draw.choice(names)})
    return homes


def check_plan(gm: GraphModule, plan: PlacementPlan, topology: Topology, homes: Homes) -> None:
    """Assert what must hold of every plan, whatever its policy."""
    calls = {node.name: node for node in gm.graph.nodes if node.op == "call_function"}
    placed = {name for partition in plan.partitions for name in partition.nodes}
    assert placed <= calls.keys()
    unplaced = [calls[name] for name in calls.keys() - placed]
    assert not any(_has_effect(node) or any(user.name in placed for user in node.users) for node in unplaced)
    makers: dict[str, int] = {}
    for index, partition in enumerate(plan.partitions):
        assert partition.index == index
        for name in partition.inputs:
            assert name in makers or name not in calls
            assert name not in makers or plan.partitions[makers[name]].stage < partition.stage
        assert not makers.keys() & set(partition.outputs)
        makers.update(dict.fromkeys(partition.outputs, index))
        for name in partition.nodes:
            if calls[name].target is torch.ops.aten.copy_.default and calls[name].args[0].op == "placeholder":
                home = homes.get(calls[name].args[0].name) or {partition.device}
                assert partition.device in home
    check_memory(gm, plan, topology)


def check_memory(gm: GraphModule, plan: PlacementPlan, topology: Topology) -> None:
    """Assert that the weights that partitions read are those that the plan says, and that they fit."""
    inputs = {node.name: node for node in gm.graph.find_nodes(op="placeholder")}
    room = {device.name: device.memory_nbytes for device in topology.devices}
    for load in plan.loads:
        read = {n for p in plan.partitions if p.device == load.device for n in p.inputs if n in inputs}
        assert sum(inputs[name].meta["val"].nbytes for name in read if is_weight(inputs[name])) == load.weight_nbytes
        assert load.weight_nbytes + load.cache_nbytes <= room[load.device]


def _has_effect(node: Node) -> bool:
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    return node.target._schema.is_mutable or not node.target._schema.returns
