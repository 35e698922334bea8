"""A compiled graph whose calls are watched: what each should move is predicted, and what it did move is counted.

Only made when somebody watches; the call itself is the plain one. What went from daemon to daemon, and when each part
ran, the daemons know, which are asked before and after each call: that waits until they are through with it.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch.fx import GraphModule

from dynamo_genie.calls.graph import CompiledGraph, sessions_of
from dynamo_genie.calls.part_spans import numbered_parts, part_spans
from dynamo_genie.calls.parts import Placement
from dynamo_genie.calls.prediction import predict_call
from dynamo_genie.connections.connection import Connection
from dynamo_genie.connections.connections import CONNECTIONS
from dynamo_genie.connections.fleet import Fleet, locked
from dynamo_genie.observe import CallTraffic, EngineUse, GraphObserver
from dynamo_genie.passes.placement.placement import place
from dynamo_genie.passes.placement.plan import PlacementPlan
from dynamo_genie.passes.placement.topology import Topology
from dynamo_genie.runtime.session.session import Session
from dynamo_genie.runtime.wire.messages import Inspection
from dynamo_genie.torch_internals.fake import unset_fake_temporarily

logger = logging.getLogger(__name__)


class Watched:
    """Calls a compiled graph and tells an observer about each call."""

    _boxed_call = True

    def __init__(self, graph: CompiledGraph, gm: GraphModule, observer: GraphObserver) -> None:
        self._graph = graph
        self._gm = gm
        self._observer = observer
        self._latest: Placement | None = None

    def __call__(self, args: list[Any]) -> list[Any]:
        """Run the graph as ever; what was queued before is sent first, so that it is not counted as this call's."""
        placement = self._graph.place(args)
        sessions = tuple({*placement.sessions, *sessions_of(args)})
        with locked(sessions):
            plan, topology = self._planned(placement)
            if not placement.bound:
                placement.bind(args, self._graph.plan)  # sent once: no part of a step
            for session in sessions:
                session.flush()
            self._observer.placed(self._gm, plan, topology, self._predict(placement, args))
            between = moved_between(_inspect(sessions))  # takes the spans of earlier calls, too
            before, began_ns, started = counted(sessions), time.time_ns(), time.perf_counter()
            results = self._graph(args)
            wall_s = time.perf_counter() - started
            sent, received = (now - then for now, then in zip(counted(sessions), before, strict=True))
            states = _inspect(sessions)
            moved, engines = moved_between(states) - between, engines_of(placement, states)
            spans = part_spans(placement, states, began_ns, time.time_ns())
        self._observer.called(plan, CallTraffic(sent, received, moved, wall_s, engines, spans))
        return results

    def _planned(self, placement: Placement) -> tuple[PlacementPlan, Topology]:
        plan, topology = placement.planned or (None, None)
        if plan is not None and not placement.parts:  # all of it runs on the client
            topology = Topology((), ())
        if plan is None or topology is None:
            whole, topology = place_on_one(self._gm, placement.parts[0].connection)
            plan = whole if plan is None else _on_one(plan, whole)
            placement.planned = plan, topology
        return plan, topology

    def _predict(self, placement: Placement, args: Sequence[Any]) -> CallTraffic:
        """Predict a call; a step of training, it is assumed, ends with an optimizer that changes the weights here."""
        graph = self._graph
        stepped = placement is self._latest and "activation" in graph.plan.output_kinds
        self._latest = placement
        sent: Mapping[str, int] = {}
        received: Mapping[str, int] = {}
        try:
            sent, received = predict_call(placement, graph.plan, graph.shapes, args, stepped=stepped)
        except Exception:  # whatever it is, the computation goes on; what is wrong with the call itself, it will say
            logger.warning("a call of a compiled graph could not be predicted; the computation goes on", exc_info=True)
        assert placement.planned is not None
        return CallTraffic(sent, received, placement.crossing, placement.planned[0].step_s)


def place_on_one(gm: GraphModule, connection: Connection) -> tuple[PlacementPlan, Topology]:
    """Return the plan that runs all of `gm` on one daemon, with the time that takes, and what was measured of it."""
    measured = Fleet([connection], CONNECTIONS.mesh, ()).topology({})
    endless = Topology(tuple(replace(d, memory_nbytes=1 << 62) for d in measured.devices), measured.links)
    with unset_fake_temporarily():
        return place(gm, endless, homes={}), measured


def _on_one(plan: PlacementPlan, whole: PlacementPlan) -> PlacementPlan:
    """Return the plan of a graph that was cut, with what all of it should take on the daemon that runs most of it."""
    reasons = (*plan.reasons, *whole.reasons)
    return replace(plan, loads=(*whole.loads, *plan.loads), step_s=whole.step_s, reasons=reasons)


def _inspect(sessions: Iterable[Session]) -> dict[Session, Inspection]:
    """Ask the daemons of some sessions what these did; waits until they are through with all that was posted."""
    return {session: session.inspect(engines=True) for session in sessions}


def engines_of(placement: Placement, states: Mapping[Session, Inspection]) -> tuple[EngineUse, ...]:
    """Return what runs the program of each part."""
    known = {
        session: {program: (engine, reason) for program, engine, reason in state.engines}
        for session, state in states.items()
    }
    return tuple(
        EngineUse(number, *known[part.session].get(part.program, ("", "")))
        for number, part in numbered_parts(placement)
    )


class ByteCounts(Counter[str]):
    """A counter whose difference keeps every sign; `Counter`'s own drops what is not positive."""

    def __sub__(self, other: Counter[str]) -> ByteCounts:
        return ByteCounts({name: self[name] - other[name] for name in self if self[name] != other[name]})


def counted(sessions: Iterable[Session]) -> tuple[ByteCounts, ByteCounts]:
    """Return what sessions sent and received so far, by tensor class."""
    sent, received = ByteCounts(), ByteCounts()
    for session in sessions:
        sent.update(session.counters.sent)
        received.update(session.counters.received)
    return sent, received


def moved_between(states: Mapping[Session, Inspection]) -> ByteCounts:
    """Return what the daemons of several sessions got from one another so far, by tensor class."""
    found = ByteCounts()
    for state in states.values():
        found.update(dict(state.peer_received))
    return found
