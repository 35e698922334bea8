"""A compiled graph whose calls are watched: what each should move is predicted, and what it did move is counted.

Only made when somebody watches. The call itself is the plain one of `CompiledGraph`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.fx import GraphModule

from dynamo_genie.calls.bound_program import BoundProgram
from dynamo_genie.calls.expected_calls import Expectation
from dynamo_genie.calls.graph import CompiledGraph
from dynamo_genie.calls.plan import CallPlan
from dynamo_genie.connections.connection import Connection
from dynamo_genie.connections.connections import CONNECTIONS
from dynamo_genie.connections.fleet import Fleet
from dynamo_genie.explain.prediction import predict_call
from dynamo_genie.lowering.graph import LoweredProgram
from dynamo_genie.observe import CallTraffic, EngineUse, GraphObserver
from dynamo_genie.passes.placement.placement import place
from dynamo_genie.passes.placement.plan import PlacementPlan
from dynamo_genie.passes.placement.topology import Topology
from dynamo_genie.runtime.session.session import Session
from dynamo_genie.torch_internals.fake import unset_fake_temporarily


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
        self._expect = Expectation(gm, plan.input_kinds, trains="activation" in plan.output_kinds)
        self._placed: tuple[Connection, PlacementPlan, Topology] | None = None

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
            before, started = counted([session]), time.perf_counter()
            results = super().__call__(args)
            wall_s = time.perf_counter() - started
            sent, received = (now - then for now, then in zip(counted([session]), before, strict=True))
            engines = engines_of([self._bound])
        self._observer.called(plan, CallTraffic(sent, received, {}, wall_s, engines))
        return results

    def _announce(self, connection: Connection, bound: BoundProgram, args: Sequence[Any]) -> PlacementPlan:
        if self._placed is None or self._placed[0] is not connection:
            self._placed = (connection, *place_on_one(self._gm, connection))
        _, plan, topology = self._placed
        outputs = self._shapes.evaluate(args)
        named = [
            output.dtype is not None and not (source >= 0 and isinstance(args[source], torch.Tensor))
            for output, source in zip(outputs, self._plan.passed_through, strict=True)
        ]
        expected = self._expect.call(
            bound,
            [0 if i in self._plan.unread else arg for i, arg in enumerate(args)],
            n_outputs=sum(named),
            n_dropped=len(named) - sum(named),
            fetched=[
                (outputs[i], self._plan.output_kinds[i])
                for i in sorted(self._plan.fetched)
                if named[i] and outputs[i].shape is not None
            ],
            describes=any(output.dtype and output.shape is None for output in outputs),
        )
        self._observer.placed(self._gm, plan, topology, predict_call(expected, plan.cuts, plan.step_s))
        return plan


def place_on_one(gm: GraphModule, connection: Connection) -> tuple[PlacementPlan, Topology]:
    """Return the plan that runs all of `gm` on one daemon, with the time that takes, and what was measured of it."""
    measured = Fleet([connection], CONNECTIONS.mesh, ()).topology({})
    endless = Topology(tuple(replace(d, memory_nbytes=1 << 62) for d in measured.devices), measured.links)
    with unset_fake_temporarily():
        return place(gm, endless, homes={}), measured


def engines_of(bound: Sequence[BoundProgram]) -> tuple[EngineUse, ...]:
    """Ask what runs the program of each partition; waits until the daemons are through with the call."""
    known = {
        session: {program: (engine, reason) for program, engine, reason in session.inspect(engines=True).engines}
        for session in dict.fromkeys(part.session for part in bound)
    }
    return tuple(EngineUse(i, *known[part.session].get(part.program, ("", ""))) for i, part in enumerate(bound))


class ByteCounts(Counter[str]):
    """A counter whose difference keeps every sign; `Counter`'s own drops what is not positive."""

    def __sub__(self, other: Counter[str]) -> ByteCounts:
        return ByteCounts({name: self[name] - other[name] for name in self if self[name] != other[name]})


def counted(sessions: Sequence[Session]) -> tuple[ByteCounts, ByteCounts]:
    """Return what sessions sent and received so far, by tensor class."""
    sent, received = ByteCounts(), ByteCounts()
    for session in sessions:
        sent.update(session.counters.sent)
        received.update(session.counters.received)
    return sent, received
