"""A graph as programs on connections: its parts, of which one is the ordinary case, and how their values fit together.

The values of a call have slots: first the graph's arguments in order, then what its parts make, last one for nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dynamo_genie.calls.bound_program import BoundProgram
from dynamo_genie.calls.client_part import ClientPart
from dynamo_genie.calls.plan import CallPlan
from dynamo_genie.connections.connection import Connection
from dynamo_genie.lowering.graph import LoweredProgram
from dynamo_genie.lowering.output_shapes import OutputShapes
from dynamo_genie.passes.placement.plan import PlacementPlan
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
        steps: What daemons run and what the client runs, in order.
        results: The slot of each result of the graph; one that is an argument has that one's.
        n_made: How many slots there are beside those of the arguments.
        planned: Why the graph is placed like this, and on what; None where there was no choice, and no topology where
            nobody has measured the one daemon that it runs on.
        crossing: Bytes that one call should move from daemon to daemon, by tensor class.
        gathered: Where later calls will need all weights that the parts read, for they find their caches there.
        told: Slots of sizes that the arguments of a call tell, for parts that do not have the tensor.
        parts: The steps that are programs.
        connections, sessions: Where those run.
        reread: Slots that several programs of one session read: what is there is sent once.
    """

    steps: tuple[Part | ClientPart, ...]
    results: tuple[int, ...]
    n_made: int
    planned: tuple[PlacementPlan, Topology | None] | None = None
    crossing: Mapping[str, int] = field(default_factory=dict)
    told: tuple[tuple[int, OutputShapes], ...] = ()
    gathered: Connection | None = None
    bound: tuple[BoundProgram, ...] = ()

    def __post_init__(self) -> None:
        self.parts = tuple(step for step in self.steps if isinstance(step, Part))
        self.connections: tuple[Connection, ...] = tuple(dict.fromkeys(part.connection for part in self.parts))
        self.sessions: tuple[Session, ...] = tuple(connection.session for connection in self.connections)
        readers = Counter((slot, part.connection.session) for part in self.parts for slot in set(part.inputs))
        self.reread = frozenset(slot for (slot, _), count in readers.items() if count > 1)

    def bind(self, args: Sequence[Any], plan: CallPlan) -> None:
        """Register the programs with their resident inputs, unless an earlier call did. The caller holds the locks."""
        if self.bound:
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
        if self.gathered is not None:
            read = sorted(resident.intersection(slot for part in self.parts for slot in part.inputs))
            self.gathered.weights.bind([args[slot] for slot in read], ask=plan.mode.understood, sampled=plan.sampled)


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
