"""A graph on several daemons whose calls are watched. Only made when somebody watches.

What went from daemon to daemon is counted by the daemons: they are asked after each call, which waits until they are
through with it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.fx import GraphModule

from dynamo_genie.calls.bound_program import BoundProgram
from dynamo_genie.calls.expected_calls import Expectation
from dynamo_genie.calls.inputs import handle_of
from dynamo_genie.calls.observed_calls import ByteCounts, counted, engines_of
from dynamo_genie.calls.placed_graph import Part, PlacedGraph, Placement
from dynamo_genie.calls.plan import CallPlan
from dynamo_genie.connections.fleet import Fleet
from dynamo_genie.explain.expected_call import ExpectedCall, ExpectedPart, RemoteTensorInput
from dynamo_genie.explain.prediction import predict_parts
from dynamo_genie.observe import CallTraffic, GraphObserver
from dynamo_genie.options import Options

_LATER = RemoteTensorInput(1 << 20)
"""Stands for the handle of a value that another part will have made."""


class ObservedPlacedGraph(PlacedGraph):
    """Calls a graph part by part and tells an observer about each call."""

    def __init__(self, gm: GraphModule, plan: CallPlan, options: Options, observer: GraphObserver) -> None:
        super().__init__(gm, plan, options)
        self._observer = observer
        self._expectations: dict[Part, Expectation] = {}

    def _run(self, fleet: Fleet, placement: Placement, bound: Sequence[BoundProgram], args: Sequence[Any]) -> list[Any]:
        """Run the graph as ever; what was queued before is sent first, so that it is not counted as this call's."""
        fleet.flush()
        plan, parts = placement.plan, self._parts(fleet, placement, bound, args)
        crossing = ByteCounts()
        for cut in plan.cuts:
            crossing[self._values.kinds[cut.value]] += cut.nbytes
        predicted = replace(predict_parts(parts, step_s=plan.step_s), between=crossing)
        self._observer.placed(self._gm, plan, placement.topology, predicted)
        between, before, started = _between(fleet), counted(fleet.sessions), time.perf_counter()
        results = super()._run(fleet, placement, bound, args)
        wall_s = time.perf_counter() - started
        sent, received = (now - then for now, then in zip(counted(fleet.sessions), before, strict=True))
        moved = _between(fleet) - between
        self._observer.called(plan, CallTraffic(sent, received, moved, wall_s, engines_of(bound)))
        return results

    def _parts(
        self, fleet: Fleet, placement: Placement, bound: Sequence[BoundProgram], args: Sequence[Any]
    ) -> list[ExpectedPart]:
        """Describe the call of each part, and what it needs from other devices."""
        values: dict[str, Any] = dict(zip(self._values.inputs, args, strict=True))
        maker = {name: part.partition.device for part in placement.parts for name in part.partition.outputs}
        moved: set[tuple[str, str]] = set()
        found = []
        for part, program in zip(placement.parts, bound, strict=True):
            device, names = part.partition.device, part.partition.inputs
            moves = []
            for name in names:
                source = maker.get(name) or _home(fleet, values.get(name))
                if source not in (None, device) and (name, device) not in moved:
                    moved.add((name, device))
                    moves.append((source, self._values.kinds[name]))
            inputs = [_LATER if name in maker else values[name] for name in names]
            found.append(ExpectedPart(device, self._call(part, program, inputs, args), tuple(moves)))
        return found

    def _call(self, part: Part, program: BoundProgram, inputs: Sequence[Any], args: Sequence[Any]) -> ExpectedCall:
        expectation = self._expectations.get(part)
        if expectation is None:
            kinds = [self._values.kinds[name] for name in part.partition.inputs]
            trains = "activation" in self._values.plan.output_kinds
            expectation = self._expectations[part] = Expectation(part.gm, kinds, trains=trains)
        shapes = self._values.shapes.evaluate(args)
        fetched = [i for i in sorted(self._values.plan.fetched) if self._values.outputs[i] in part.partition.outputs]
        dropped = len(part.lowered.scalar_outputs)
        return expectation.call(
            program,
            inputs,
            n_outputs=len(part.partition.outputs) - dropped,
            n_dropped=dropped,
            fetched=[(shapes[i], self._values.plan.output_kinds[i]) for i in fetched if shapes[i].shape is not None],
            describes=False,
        )


def _home(fleet: Fleet, value: Any) -> str | None:
    handle = handle_of(value) if isinstance(value, torch.Tensor) else None
    return fleet.endpoint_of(handle.session) if handle is not None else None


def _between(fleet: Fleet) -> ByteCounts:
    """Return what the daemons got from one another so far, by tensor class."""
    found = ByteCounts()
    for connection in fleet.connections:
        found.update(dict(connection.session.inspect().peer_received))
    return found
