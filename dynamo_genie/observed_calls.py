"""A compiled graph whose calls are watched: what each should move is predicted, and what it did move is counted.

Only made when somebody watches. The call itself is the plain one of `CompiledGraph`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

from dynamo_genie.bound_program import BoundProgram
from dynamo_genie.call_inputs import handle_of, is_expanded
from dynamo_genie.call_plan import CallPlan
from dynamo_genie.compiled_graph import CompiledGraph
from dynamo_genie.connection import Connection
from dynamo_genie.explain.contents import content_of
from dynamo_genie.explain.expected_call import (
    ExpectedCall,
    ExpectedInput,
    LocalTensor,
    ReadBack,
    RemoteTensorInput,
    SessionNumbers,
)
from dynamo_genie.explain.prediction import predict_call
from dynamo_genie.explain.single_placement import place_on_one, single_topology
from dynamo_genie.lowering import LoweredProgram
from dynamo_genie.observe import CallTraffic, GraphObserver
from dynamo_genie.output_shapes import OutputMetadata
from dynamo_genie.passes.plan import PlacementPlan
from dynamo_genie.runtime.memory import wire_dtype
from dynamo_genie.runtime.session import Session


class ObservedGraph(CompiledGraph):
    """Calls a program and tells an observer about each call."""

    def __init__(
        self,
        gm: GraphModule,
        lowered: LoweredProgram,
        plan: CallPlan,
        connect: Callable[[], Connection],
        observer: GraphObserver,
    ) -> None:
        super().__init__(gm, lowered, plan, connect)
        self._gm = gm
        self._observer = observer
        self._expect = _Expectation(gm, lowered, plan)
        self._placements: dict[str, PlacementPlan] = {}

    def __call__(self, args: list[Any]) -> list[Any]:
        """Run the graph as ever; what was queued before is sent first, so that it is not counted as this call's."""
        connection = self._connection()
        session = connection.session
        with session.lock:
            if self._bound is None or self._bound.connection is not connection:
                self._bind(connection, args)  # sent once: no part of a step
            session.flush()
            assert self._bound is not None
            plan = self._announce(connection, self._bound, args)
            before, started = _counted(session), time.perf_counter()
            results = super().__call__(args)
            wall_s = time.perf_counter() - started
            sent, received = (now - then for now, then in zip(_counted(session), before, strict=True))
        self._observer.called(plan, CallTraffic(sent, received, {}, wall_s))
        return results

    def _announce(self, connection: Connection, bound: BoundProgram, args: Sequence[Any]) -> PlacementPlan:
        plan = self._placements.get(connection.endpoint)
        if plan is None:
            plan = self._placements[connection.endpoint] = place_on_one(self._gm, connection.endpoint)
        expected = self._expect.call(connection.session, bound, args, self._shapes.evaluate(args))
        topology = single_topology(connection.endpoint, connection.session.device.memory_limit)
        self._observer.placed(self._gm, plan, topology, predict_call(expected, plan.cuts, plan.step_s))
        return plan


def _counted(session: Session) -> tuple[_Bytes, _Bytes]:
    return _Bytes(session.counters.sent), _Bytes(session.counters.received)


class _Bytes(Counter[str]):
    """A counter whose difference keeps every sign; `Counter`'s own drops what is not positive."""

    def __sub__(self, other: Counter[str]) -> _Bytes:
        return _Bytes({name: self[name] - other[name] for name in self if self[name] != other[name]})


class _Expectation:
    """What a graph's calls have in common, and how one of them will look."""

    def __init__(self, gm: GraphModule, lowered: LoweredProgram, plan: CallPlan) -> None:
        self._program, self._plan = lowered.program, plan
        self._called: BoundProgram | None = None
        placeholders = gm.graph.find_nodes(op="placeholder")
        self._contents = [content_of(node) for node in placeholders]
        values = [node.meta.get("val") if isinstance(node, Node) else node for node in gm.graph.output_node().args[0]]  # type: ignore[union-attr]
        self._trains = "activation" in plan.output_kinds  # it saves some for a backward
        self._ranks = tuple(value.dim() for value in values if isinstance(value, torch.Tensor))

    def call(
        self, session: Session, bound: BoundProgram, args: Sequence[Any], outputs: Sequence[OutputMetadata]
    ) -> ExpectedCall:
        """Describe a call with these arguments; looks at their sizes, not at their values."""
        handles = [
            output.dtype is not None and not (source >= 0 and isinstance(args[source], torch.Tensor))
            for output, source in zip(outputs, self._plan.passed_through, strict=True)
        ]
        return ExpectedCall(
            program=bound.program,
            binding=bound.number,
            numbers=SessionNumbers(*session.counted),
            inputs=tuple(self._input(position, args[position]) for position in bound.free),
            n_outputs=sum(handles),
            n_dropped=len(handles) - sum(handles),
            reads=tuple(self._reads(bound, args, outputs, handles)),
            draws=self._program.random,
            changed=self._changed(bound, args),
            describes=self._ranks if any(output.dtype and output.shape is None for output in outputs) else (),
        )

    def _changed(self, bound: BoundProgram, args: Sequence[Any]) -> tuple[int, ...]:
        """Assume that a step of training ends with an optimizer, here, that changes what gets a gradient."""
        if not (self._trains and bound is self._called):
            self._called = bound
            return ()
        return tuple(args[i].nbytes for i in bound.resident if args[i].requires_grad)

    def _input(self, position: int, value: Any) -> ExpectedInput:
        if not isinstance(value, torch.Tensor):
            return 0 if value is None else value
        handle = handle_of(value)
        if handle is not None:
            return RemoteTensorInput(handle.id)
        shape = tuple(value.shape)
        if is_expanded(value):
            shape = tuple(1 if step == 0 else size for size, step in zip(shape, value.stride(), strict=True))
        written = position in self._program.mutated_inputs
        kind = self._plan.input_kinds[position]
        return LocalTensor(wire_dtype(value.dtype), shape, kind, written, *self._contents[position])

    def _reads(
        self, bound: BoundProgram, args: Sequence[Any], outputs: Sequence[OutputMetadata], handles: Sequence[bool]
    ) -> list[ReadBack]:
        """List what comes back at once, in the order in which the call asks for it."""
        mutated = self._program.mutated_inputs
        kept = [i for i in mutated if i in bound.resident]
        local = [i for i in mutated if i in bound.free and handle_of(args[i]) is None]
        reads = [_read(args[i], "weight") for i in kept] + [_read(args[i], "output") for i in local]
        for index in sorted(self._plan.fetched):
            dtype, shape = outputs[index].dtype, outputs[index].shape
            if handles[index] and dtype is not None and shape is not None:
                reads.append(ReadBack(wire_dtype(dtype), shape, "gradient"))
        return reads


def _read(value: torch.Tensor, kind: str) -> ReadBack:
    return ReadBack(wire_dtype(value.dtype), tuple(value.shape), kind)
