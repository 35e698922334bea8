"""The turns of a graph, placed one after the other: each knows what earlier ones left on which device."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch.fx import GraphModule

from dynamo_genie.connections.fleet import Fleet
from dynamo_genie.options import Options
from dynamo_genie.passes.cutting.crossings import find_crossings
from dynamo_genie.passes.graphs.semantics import nbytes_of
from dynamo_genie.passes.placement.placement import place
from dynamo_genie.passes.placement.plan import DeviceLoad, Partition, PlacementPlan
from dynamo_genie.passes.placement.topology import CLIENT, Topology


class Sections:
    """Collects the partitions of a graph, turn by turn.

    Attributes:
        topology: What the graph was placed on; None where a single daemon left no choice, and was not measured.
    """

    def __init__(
        self,
        gm: GraphModule,
        fleet: Fleet,
        options: Options,
        homes: Mapping[str, frozenset[str]],
        nbytes: Mapping[str, int],
    ) -> None:
        """Begin with nothing placed.

        Args:
            homes: The devices on which each argument is, by the name of its placeholder; those absent the client has.
            nbytes: The sizes of the arguments.
        """
        self._gm = gm
        self._fleet = fleet
        self._options = options
        self._policy = options.placement or options.mode.placement
        self._homes = dict(homes)
        self._arguments = dict(homes)
        self._nbytes = nbytes
        self._taken: Counter[str] = Counter()
        self._plans: list[PlacementPlan] = []
        self.topology: Topology | None = None

    def add(self, turn: Partition | None, gm: GraphModule) -> None:
        """Place the next turn, whose graph is `gm`; None where the graph has no other."""
        if turn is not None and turn.device == CLIENT:
            plan = self._at_once(turn, CLIENT)
        elif turn is not None and len(self._fleet.connections) == 1:
            plan = self._at_once(turn, self._fleet.connections[0].endpoint)
        else:
            plan = self._spread(gm)
        for partition in plan.partitions:
            if partition.device != CLIENT:
                here = frozenset({partition.device})
                self._homes.update(dict.fromkeys(partition.outputs, here))
        self._plans.append(plan)

    def plan(self, reasons: Iterable[str]) -> PlacementPlan:
        """Return the plan of the whole graph."""
        if len(self._plans) == 1 and self.topology is not None:
            return self._plans[0]
        partitions = self._in_order()
        homes = {name: next(iter(there)) for name, there in self._arguments.items() if len(there) == 1}
        crossings = find_crossings(self._gm, partitions, homes)
        return PlacementPlan(
            policy=self._policy,
            partitions=partitions,
            cuts=(*(cut for plan in self._plans for cut in plan.cuts), *crossings),
            loads=self._loads(),
            step_s=sum(plan.step_s for plan in self._plans),
            reasons=(*reasons, *(reason for plan in self._plans for reason in plan.reasons)),
        )

    def _at_once(self, turn: Partition, device: str) -> PlacementPlan:
        """Return the plan of a turn that one device runs; what that takes there is not known."""
        alone = replace(turn, index=0, stage=0, device=device)
        loads = (DeviceLoad(CLIENT, 0, 0, math.nan),) if device == CLIENT else ()
        return PlacementPlan(self._policy, (alone,), (), loads, 0.0 if device == CLIENT else math.nan)

    def _spread(self, gm: GraphModule) -> PlacementPlan:
        """Place a turn on the devices, less what earlier turns will take of them."""
        names = [node.name for node in gm.graph.find_nodes(op="placeholder")]
        homes = {name: self._homes[name] for name in names if name in self._homes}
        held: Counter[str] = Counter()
        for name, there in homes.items():
            held.update(dict.fromkeys(there, self._nbytes.get(name, 0)))
        topology = self._fleet.topology(held)
        self.topology = self.topology or topology
        left = [replace(d, memory_nbytes=max(0, d.memory_nbytes - self._taken[d.name])) for d in topology.devices]
        topology = replace(topology, devices=tuple(left))
        seed = self._options.placement_seed
        plan = place(gm, topology, homes=homes, policy=self._policy, seed=seed)
        for load in plan.loads:
            self._taken[load.device] += max(0, load.weight_nbytes - held[load.device])
        made = {node.name: nbytes_of(node) or 0 for node in gm.graph.nodes}
        for partition in plan.partitions:
            self._taken[partition.device] += sum(made[name] for name in partition.outputs)
            for name in partition.inputs:
                if name in self._nbytes:  # a weight, say, that a later turn finds where this one has put it
                    self._homes.setdefault(name, frozenset({partition.device}))
        return plan

    def _in_order(self) -> tuple[Partition, ...]:
        found: list[Partition] = []
        stage = 0
        for plan in self._plans:
            base = len(found)
            found += [replace(p, index=base + p.index, stage=stage + p.stage) for p in plan.partitions]
            stage = found[-1].stage + 1 if plan.partitions else stage
        return tuple(found)

    def _loads(self) -> tuple[DeviceLoad, ...]:
        loads: dict[str, DeviceLoad] = {}
        for load in (load for plan in self._plans for load in plan.loads):
            known = loads.get(load.device, DeviceLoad(load.device, 0, 0, 0.0))
            loads[load.device] = DeviceLoad(
                load.device,
                known.weight_nbytes + load.weight_nbytes,
                known.cache_nbytes + load.cache_nbytes,
                known.busy_s + load.busy_s,
            )
        return tuple(sorted(loads.values(), key=lambda load: load.device == CLIENT))
