"""A graph as programs on connections: its parts, of which one is the ordinary case, and how their values fit together.

The values of a call have slots: first the graph's arguments in order, then what its parts make, last one for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.fx import GraphModule, Node

from dynamo_genie.calls.bound_program import BoundProgram
from dynamo_genie.calls.plan import CallPlan, tensor_class
from dynamo_genie.connections.connection import Connection
from dynamo_genie.lowering.graph import LoweredProgram
from dynamo_genie.lowering.output_shapes import OutputShapes
from dynamo_genie.passes.placement.plan import Partition, PlacementPlan
from dynamo_genie.passes.placement.topology import Topology
from dynamo_genie.runtime.session.session import Session
from dynamo_genie.runtime.wire.tensor_class import TensorClass


@dataclass(frozen=True, eq=False)
class Part:
    """One program of a graph, and where it runs.

    Attributes:
        inputs: The slot of each input.
        input_kinds: The tensor class of each input, for the byte counters.
        results: Slot and tensor class of each result; None for one that the client knows already.
    """

    connection: Connection
    lowered: LoweredProgram
    inputs: tuple[int, ...]
    input_kinds: tuple[TensorClass, ...]
    results: tuple[tuple[int, TensorClass] | None, ...]


@dataclass(eq=False)
class Placement:
    """A graph's parts, in an order in which they may be sent; their programs are bound by the first call.

    Attributes:
        results: The slot of each result of the graph; one that is an argument has that one's.
        n_made: How many slots there are beside those of the arguments.
        planned: Why the graph is placed like this, and on what; None where there was no choice.
        crossing: Bytes that one call should move from daemon to daemon, by tensor class.
    """

    parts: tuple[Part, ...]
    results: tuple[int, ...]
    n_made: int
    planned: tuple[PlacementPlan, Topology] | None = None
    crossing: Mapping[str, int] = field(default_factory=dict)
    bound: tuple[BoundProgram, ...] = ()

    def __post_init__(self) -> None:
        self.sessions: tuple[Session, ...] = tuple(dict.fromkeys(part.connection.session for part in self.parts))

    def bind(self, args: Sequence[Any], plan: CallPlan) -> None:
        """Make sure that the resident inputs on the daemons are those of this call. The caller holds the locks."""
        if self.bound:
            for bound in self.bound:
                bound.sync(args)
            return
        resident = frozenset(plan.bound(args))
        self.bound = tuple(
            BoundProgram(
                part.connection,
                part.lowered,
                part.inputs,
                resident,
                args,
                ask=plan.mode.understood,
                engine=plan.engine,
                sampled=plan.sampled,
            )
            for part in self.parts
        )


def whole(connection: Connection, lowered: LoweredProgram, plan: CallPlan, shapes: OutputShapes) -> Placement:
    """Return the graph as one part: its program's inputs and results are the graph's own."""
    n_args, n_results = len(plan.input_kinds), len(plan.output_kinds)
    nothing = n_args + n_results
    made = [
        output.dtype is not None and source < 0
        for output, source in zip(shapes.outputs, plan.passed_through, strict=True)
    ]
    slots = [
        n_args + i if new else source for i, (new, source) in enumerate(zip(made, plan.passed_through, strict=True))
    ]
    part = Part(
        connection,
        lowered,
        tuple(nothing if i in plan.unread else i for i in range(n_args)),
        plan.input_kinds,
        tuple((slots[i], plan.output_kinds[i]) if new else None for i, new in enumerate(made)),
    )
    return Placement((part,), tuple(slots), n_results + 1)


class ValueSlots:
    """The slots and tensor classes of the values of a graph that is spread, by the names of their nodes."""

    def __init__(self, gm: GraphModule, plan: CallPlan) -> None:
        placeholders = [node.name for node in gm.graph.find_nodes(op="placeholder")]
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

    def placement(self, parts: Sequence[Part], plan: PlacementPlan, topology: Topology) -> Placement:
        """Return the whole graph, placed as planned."""
        crossing: dict[str, int] = {}
        for cut in plan.cuts:
            kind = self._kinds[cut.value]
            crossing[kind] = crossing.get(kind, 0) + cut.nbytes
        results = tuple(self._slots[name] for name in self._returned)
        n_made = len(self._slots) - len(self.inputs)
        return Placement(tuple(parts), results, n_made, (plan, topology), crossing)
