"""The slots of a graph that comes in several parts: each value has one, by the name of its node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.fx import GraphModule, Node

from dynamo_genie.calls.client_part import ClientPart
from dynamo_genie.calls.parts import Part, Placement
from dynamo_genie.calls.plan import CallPlan, tensor_class
from dynamo_genie.connections.client_work import ClientOperator
from dynamo_genie.connections.connection import Connection
from dynamo_genie.lowering.graph import LoweredProgram
from dynamo_genie.lowering.output_shapes import OutputShapes
from dynamo_genie.passes.placement.ordering import find_ordering
from dynamo_genie.passes.placement.plan import Partition, PlacementPlan
from dynamo_genie.passes.placement.topology import CLIENT, Topology


class ValueSlots:
    """The slots and tensor classes of a graph's values, and the parts that they make."""

    def __init__(self, gm: GraphModule, plan: CallPlan) -> None:
        self._placeholders = gm.graph.find_nodes(op="placeholder")
        self._values = {node.name: node.meta.get("val") for node in gm.graph.nodes}
        placeholders = [node.name for node in self._placeholders]
        returned: Any = gm.graph.output_node().args[0]
        self._returned = [value.name if isinstance(value, Node) else "" for value in returned]
        made = [node.name for node in gm.graph.nodes if node.op not in ("placeholder", "output")]
        self._slots = {name: slot for slot, name in enumerate([*placeholders, *made, ""])}
        self._kinds = {node.name: tensor_class(node, "activation") for node in gm.graph.nodes}
        self._kinds.update(zip(self._returned, plan.output_kinds, strict=True))
        self._kinds.update(zip(placeholders, plan.input_kinds, strict=True))
        self.inputs = tuple(placeholders)

    def part(self, partition: Partition, connection: Connection, lowered: LoweredProgram) -> Part:
        """Return a partition as a part."""
        named = [(self._slots[name], self._kinds[name]) for name in partition.outputs]
        return Part(
            connection,
            lowered,
            tuple(self._slots[name] for name in partition.inputs),
            tuple(self._kinds[name] for name in partition.inputs),
            tuple(None if i in lowered.scalar_outputs else result for i, result in enumerate(named)),
        )

    def client_part(
        self, partition: Partition, gm: GraphModule, unrunnable: Mapping[str, ClientOperator]
    ) -> ClientPart:
        """Return a partition on the client as a part; `gm` is its graph."""
        return ClientPart(
            gm.forward,
            tuple(self._slots[name] for name in partition.inputs),
            tuple(self._shapes(name) for name in partition.inputs),
            tuple(self._slots[name] for name in partition.outputs),
            tuple(self._shapes(name) for name in partition.outputs),
            tuple(self._slots[root.name] for root in find_ordering(gm).written if root.op == "placeholder"),
            tuple(unrunnable[name] for name in partition.nodes if name in unrunnable),
        )

    def placement(
        self,
        steps: Sequence[Part | ClientPart],
        plan: PlacementPlan,
        topology: Topology | None,
        gathered: Connection | None = None,
    ) -> Placement:
        """Return the whole graph, placed as planned; its caches may be `gathered` somewhere."""
        crossing: dict[str, int] = {}
        for cut in plan.cuts:
            if CLIENT not in (cut.source, cut.target):
                kind = self._kinds[cut.value]
                crossing[kind] = crossing.get(kind, 0) + cut.nbytes
        made = {name for partition in plan.partitions for name in partition.outputs}
        read = dict.fromkeys(name for partition in plan.partitions for name in partition.inputs)
        return Placement(
            tuple(steps),
            tuple(self._slots[name] for name in self._returned),
            len(self._slots) - len(self.inputs),
            (plan, topology),
            crossing,
            tuple((self._slots[n], self._shapes(n)) for n in read if n not in made and n not in self.inputs),
            gathered,
        )

    def _shapes(self, name: str) -> OutputShapes:
        return OutputShapes(self._placeholders, [self._values[name]])
