"""One call of a graph that is spread over several daemons. Its caller holds the locks of all their sessions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dynamo_genie.calls.bound_program import BoundProgram
from dynamo_genie.calls.graph import want_results, want_written, wrap_result
from dynamo_genie.calls.graph_values import GraphValues
from dynamo_genie.calls.inputs import CallInputs
from dynamo_genie.calls.random_state import draw_remotely
from dynamo_genie.calls.read_back import ReadBack
from dynamo_genie.connections.fleet import Fleet
from dynamo_genie.lowering.output_shapes import OutputMetadata
from dynamo_genie.passes.placement.plan import Partition
from dynamo_genie.runtime.session.handles import Handle
from dynamo_genie.runtime.session.session import Session
from dynamo_genie.runtime.wire import messages as m


class PlacedCall:
    """Sends partition after partition; what one makes and another reads goes from daemon to daemon.

    Attributes:
        values: Arguments and intermediate values so far, by the name of their node; what daemons made is a `Handle`.
    """

    def __init__(self, fleet: Fleet, graph: GraphValues, args: Sequence[Any]) -> None:
        self.values: dict[str, Any] = dict(zip(graph.inputs, args, strict=True))
        self._fleet = fleet
        self._graph = graph
        self._args = args
        self._moved: dict[tuple[Handle, Session], Handle] = {}
        self._wanted = ReadBack()

    def run(self, bound: BoundProgram, partition: Partition) -> None:
        """Send one partition; everything that it reads has been sent before."""
        session, program = bound.session, bound.lowered.program
        args = [self.values[name] for name in partition.inputs]
        sender = CallInputs(session, program.mutated_inputs, self._move)
        inputs = [sender.add(i, args[i], self._graph.kinds[partition.inputs[i]]) for i in bound.free]
        plain = bound.lowered.scalar_outputs  # numbers are worked out here, where they are wanted
        handles = [None if i in plain else self._new_handle(session, n) for i, n in enumerate(partition.outputs)]
        outputs = [0 if handle is None else handle.id for handle in handles]
        session.counters.events["calls"] += 1
        if program.random:
            draw_remotely(session, bound.program, bound.number, inputs, outputs)
        else:
            session.post(m.Call(bound.program, bound.number, tuple(inputs), tuple(outputs)))
        self.values.update(zip(partition.outputs, handles, strict=True))
        want_written(self._wanted, bound, args, sender)

    def results(self) -> list[Any]:
        """Return the graph's results, remote but for those the program must have here."""
        metadata = self._graph.shapes.evaluate(self._args)
        handles = [self._handle(i, output) for i, output in enumerate(metadata)]
        self._fleet.flush()
        if self._graph.shapes.depends_on_data:
            metadata = [self._ask(handle, output) for handle, output in zip(handles, metadata, strict=True)]
        fetched: dict[int, torch.Tensor] = {}
        want_results(self._wanted, self._graph.plan.fetched, handles, metadata, fetched)
        self._wanted.fetch()
        return [
            fetched[i] if i in fetched else wrap_result(output, handle, self._source(i))
            for i, (output, handle) in enumerate(zip(metadata, handles, strict=True))
        ]

    def _move(self, handle: Handle, target: Session, kind: str) -> Handle:
        """Have a value brought to another daemon, once a call."""
        key = handle, target
        if key not in self._moved:
            self._moved[key] = self._fleet.mesh.move(handle, target, kind)
        return self._moved[key]

    def _new_handle(self, session: Session, name: str) -> Handle:
        handle = session.new_handle()
        handle.kind = self._graph.kinds[name]
        return handle

    def _source(self, index: int) -> Any:
        position = self._graph.plan.passed_through[index]
        return self._args[position] if position >= 0 else None

    def _handle(self, index: int, output: OutputMetadata) -> Handle | None:
        if output.dtype is None or isinstance(self._source(index), torch.Tensor):
            return None
        handle = self.values[self._graph.outputs[index]]
        assert isinstance(handle, Handle)
        return handle

    def _ask(self, handle: Handle | None, output: OutputMetadata) -> OutputMetadata:
        """Learn a shape that depends on data from the daemon."""
        if handle is None:
            return output
        [spec] = handle.session.describe([handle])
        return OutputMetadata(output.dtype, spec.shape, spec.stride)
