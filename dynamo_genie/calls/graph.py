"""A compiled graph as AOTAutograd calls it: arguments in, results out, one message in between.

Parameters and buffers are bound to the program once; each call proves that the local ones are still those that
were sent. Results are remote tensors, except what the program must have here: inputs it mutates that are local,
and gradients of local parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import torch
from torch.fx import GraphModule

from dynamo_genie.calls.bound_program import BoundProgram
from dynamo_genie.calls.inputs import CallInputs, Move, handle_of
from dynamo_genie.calls.plan import CallPlan
from dynamo_genie.calls.random_state import draw_remotely
from dynamo_genie.calls.read_back import ReadBack
from dynamo_genie.connections.connection import Connection
from dynamo_genie.connections.connections import CONNECTIONS
from dynamo_genie.connections.fleet import locked
from dynamo_genie.lowering.graph import LoweredProgram
from dynamo_genie.lowering.output_shapes import OutputMetadata, OutputShapes, shapes_of
from dynamo_genie.runtime.session.handles import Handle
from dynamo_genie.runtime.session.session import Session
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.tensor.remote_tensor import RemoteTensor


class CompiledGraph:
    """Calls a program; made once per graph, used by any thread, bound to each session it meets."""

    _boxed_call = True

    def __init__(
        self, gm: GraphModule, lowered: LoweredProgram, plan: CallPlan, connect: Callable[[], Connection]
    ) -> None:
        self._shapes = shapes_of(gm)
        self._lowered = lowered
        self._plan = plan
        self._connect = connect
        self._bound: BoundProgram | None = None

    def __call__(self, args: list[Any]) -> list[Any]:
        """Run the graph; empties `args`, so that arguments can die as soon as they are sent."""
        connection = self._connection()
        try:
            with connection.session.lock:
                results = self._run(connection, args, _refuse_to_move)
        except _LivesElsewhere:  # seldom, so only then are all locks taken, in the one order
            sessions = [handle.session for arg in args if (handle := handle_of(arg)) is not None]
            with locked([connection.session, *sessions]):
                results = self._run(connection, args, CONNECTIONS.mesh.move)
        args.clear()
        return results

    def _run(self, connection: Connection, args: list[Any], move: Move) -> list[Any]:
        bound = self._bind(connection, args)
        return _Call(bound, self._plan, move).run(args, self._shapes)

    def _connection(self) -> Connection:
        bound = self._bound
        return bound.connection if bound is not None and bound.connection.alive else self._connect()

    def _bind(self, connection: Connection, args: Sequence[Any]) -> BoundProgram:
        """Make sure that the resident inputs on the daemon are those of this call."""
        bound = self._bound
        if bound is None or bound.connection is not connection:
            plan = self._plan
            bound = self._bound = BoundProgram(
                connection, self._lowered, args, plan.bound(args), ask=plan.mode.understood, engine=plan.engine
            )
        else:
            bound.sync(args)
        return bound


def wrap_result(output: OutputMetadata, handle: Handle | None, source: Any) -> Any:
    """Return one result of a call: a remote tensor, a plain value, or the argument that it is.

    Args:
        output: Its shape and dtype, or its value where it is plain.
        handle: What it is called in the daemon; None where nothing new was made.
        source: The argument that the graph passes through, where `handle` is None.
    """
    if handle is not None:
        assert output.dtype is not None
        return RemoteTensor(output.shape, output.stride, output.dtype, handle, None, output.offset)
    if output.dtype is None:
        return output.value
    handle = handle_of(source)
    if handle is None or isinstance(source, RemoteTensor):
        return source
    return RemoteTensor(source.shape, source.stride(), source.dtype, handle, None, source.storage_offset())


class _LivesElsewhere(Exception):
    """An argument lives on another daemon, whose session is not locked yet."""


def _refuse_to_move(handle: Handle, target: Session, kind: str) -> Handle:
    handle.session.check()
    raise _LivesElsewhere


class _Call:
    """One call on its way."""

    def __init__(self, bound: BoundProgram, plan: CallPlan, move: Move) -> None:
        self._move = move
        self._session = bound.session
        self._bound = bound
        self._program = bound.lowered.program
        self._plan = plan

    def run(self, args: list[Any], shapes: OutputShapes) -> list[Any]:
        session, bound = self._session, self._bound
        kinds = self._plan.input_kinds
        sender = CallInputs(session, self._program.mutated_inputs, self._move)
        unread = self._plan.unread
        inputs = [0 if i in unread else sender.add(i, args[i], kinds[i]) for i in bound.free]
        metadata = shapes.evaluate(args)
        handles = [self._output_handle(i, output, args) for i, output in enumerate(metadata)]
        outputs = [0 if handle is None else handle.id for handle in handles]
        session.counters.events["calls"] += 1
        if self._program.random:
            draw_remotely(session, bound.program, bound.number, inputs, outputs)
        else:
            session.post(m.Call(bound.program, bound.number, tuple(inputs), tuple(outputs)))
        if shapes.depends_on_data:
            metadata = self._ask(handles, metadata)
        fetched = self._read_back(args, handles, metadata, sender)
        return [
            fetched[i] if i in fetched else wrap_result(output, handle, self._source(i, args))
            for i, (output, handle) in enumerate(zip(metadata, handles, strict=True))
        ]

    def _source(self, index: int, args: Sequence[Any]) -> Any:
        position = self._plan.passed_through[index]
        return args[position] if position >= 0 else None

    def _output_handle(self, index: int, output: OutputMetadata, args: Sequence[Any]) -> Handle | None:
        if output.dtype is None or isinstance(self._source(index, args), torch.Tensor):
            return None
        handle = self._session.new_handle()
        handle.kind = self._plan.output_kinds[index]
        return handle

    def _ask(self, handles: list[Handle | None], metadata: Sequence[OutputMetadata]) -> tuple[OutputMetadata, ...]:
        """Learn the shapes that depend on data from the daemon."""
        specs = iter(self._session.describe([handle for handle in handles if handle is not None]))
        found = []
        for handle, output in zip(handles, metadata, strict=True):
            if handle is None:
                found.append(output)
            else:
                spec = next(specs)
                found.append(OutputMetadata(output.dtype, spec.shape, spec.stride))
        return tuple(found)

    def _read_back(
        self,
        args: Sequence[Any],
        handles: list[Handle | None],
        metadata: Sequence[OutputMetadata],
        sender: CallInputs,
    ) -> dict[int, torch.Tensor]:
        """Fetch what the program must have here, in one round trip; return outputs by index."""
        fetched: dict[int, torch.Tensor] = {}
        wanted = ReadBack()
        want_written(wanted, self._bound, args, sender)
        want_results(wanted, self._plan.fetched, handles, metadata, fetched)
        if wanted:
            wanted.fetch()
        else:
            self._session.flush()
        return fetched


def want_written(wanted: ReadBack, bound: BoundProgram, args: Sequence[Any], sender: CallInputs) -> None:
    """Ask for what a call wrote into local tensors: resident ones, and those that were sent with it."""
    for position in bound.written:
        wanted.want(bound.session, bound.handle_id(position), "weight", args[position].copy_)
    if bound.written:
        wanted.afterwards(bound.mark_written_back)
    for local, handle in sender.written:
        wanted.want_handle(handle, handle.kind, local.copy_)


def want_results(
    wanted: ReadBack,
    positions: Collection[int],
    handles: Sequence[Handle | None],
    metadata: Sequence[OutputMetadata],
    fetched: dict[int, torch.Tensor],
) -> None:
    """Ask for the results at `positions`, which come into `fetched` laid out as the graph says."""
    for i in sorted(positions):
        handle = handles[i]
        if handle is not None:
            wanted.want_handle(handle, handle.kind, partial(_deliver, fetched, i, metadata[i]))


def _deliver(fetched: dict[int, torch.Tensor], position: int, output: OutputMetadata, value: torch.Tensor) -> None:
    fetched[position] = _laid_out(value, output)


def _laid_out(value: torch.Tensor, output: OutputMetadata) -> torch.Tensor:
    """Return a value with the strides of an output: what is not dense arrives dense."""
    assert output.shape is not None
    assert output.stride is not None
    if value.stride() == output.stride:
        return value
    repeated = [step == 0 for step in output.stride]
    shape = [1 if same else size for same, size in zip(repeated, output.shape, strict=True)]
    once = torch.empty_strided(shape, output.stride, dtype=value.dtype)
    once.copy_(value[tuple(slice(0, 1) if same else slice(None) for same in repeated)])
    return once.as_strided(output.shape, output.stride)
