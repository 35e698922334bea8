"""A compiled graph as AOTAutograd calls it: arguments in, results out, one message in between.

Parameters and buffers are bound to the program once; each call proves that the local ones are still those that
were sent. Results are remote tensors, except what the program must have here: inputs it mutates that are local,
and gradients of local parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule

from dynamo_genie.connection import Connection
from dynamo_genie.lowering import LoweredProgram
from dynamo_genie.output_shapes import OutputMetadata, OutputShapes
from dynamo_genie.random_state import draw_remotely
from dynamo_genie.remote_tensor import RemoteTensor
from dynamo_genie.runtime.handles import Handle
from dynamo_genie.runtime.session import Session
from dynamo_genie.runtime.weights import WeightBinding
from dynamo_genie.runtime.wire import messages as m


@dataclass(frozen=True)
class CallPlan:
    """What is known of a graph's calls when it is compiled.

    Attributes:
        resident: Positions of the parameters and buffers.
        input_kinds: The tensor class of each input, for the byte counters.
        output_kinds: The tensor class of each output.
        passed_through: For each output, the position of the input it is, or -1.
        fetched: Outputs that the program wants here: gradients of local parameters.
    """

    resident: frozenset[int]
    input_kinds: tuple[str, ...]
    output_kinds: tuple[str, ...]
    passed_through: tuple[int, ...]
    fetched: frozenset[int]


@dataclass
class Bound:
    """The graph on one session."""

    connection: Connection
    program: int
    number: int
    binding: WeightBinding
    generation: int
    resident: tuple[int, ...]
    free: tuple[int, ...]


class CompiledGraph:
    """Calls a program; made once per graph, used by any thread, bound to each session it meets."""

    _boxed_call = True

    def __init__(
        self, gm: GraphModule, lowered: LoweredProgram, plan: CallPlan, connect: Callable[[], Connection]
    ) -> None:
        placeholders = gm.graph.find_nodes(op="placeholder")
        outputs: Any = gm.graph.output_node().args[0]
        self._shapes = OutputShapes(placeholders, [getattr(o, "meta", {}).get("val", o) for o in outputs])
        self._lowered = lowered
        self._plan = plan
        self._connect = connect
        self._bound: Bound | None = None

    def __call__(self, args: list[Any]) -> list[Any]:
        """Run the graph; empties `args`, so that arguments can die as soon as they are sent."""
        connection = self._connection()
        session = connection.session
        with session.lock:
            bound = self._bind(connection, args)
            call = _Call(session, bound, self._lowered, self._plan)
            results = call.run(args, self._shapes)
        args.clear()
        return results

    def _connection(self) -> Connection:
        bound = self._bound
        return bound.connection if bound is not None and bound.connection.alive else self._connect()

    def _bind(self, connection: Connection, args: Sequence[Any]) -> Bound:
        """Make sure that the resident inputs on the daemon are those of this call."""
        bound = self._bound
        if bound is None or bound.connection is not connection:
            bound = self._bound = self._bind_first(connection, args)
        else:
            bound.binding.sync((*[args[i] for i in bound.resident], *self._lowered.lifted_constants))
        if bound.generation != bound.binding.generation:
            bound.generation = bound.binding.generation
            lifted = range(len(args), len(args) + len(self._lowered.lifted_constants))
            positions = (*bound.resident, *lifted)
            message = m.BindWeights(bound.number, bound.program, positions, tuple(bound.binding.handles))
            connection.session.post(message, 8 * len(positions))
        return bound

    def _bind_first(self, connection: Connection, args: Sequence[Any]) -> Bound:
        session, lowered = connection.session, self._lowered
        program = session.register(lowered.digest, lowered.encoded, lowered.node_lines)
        resident = tuple(i for i in sorted(self._plan.resident) if handle_of(args[i]) is None) + tuple(
            i
            for i, arg in enumerate(args)
            if i not in self._plan.resident and isinstance(arg, torch.nn.Parameter) and handle_of(arg) is None
        )
        tensors = [*[args[i] for i in resident], *lowered.lifted_constants]
        mutated = frozenset(resident.index(i) for i in lowered.program.mutated_inputs if i in resident)
        binding = connection.weights.bind(tensors, mutated=mutated)
        free = tuple(i for i in range(len(args)) if i not in resident)
        return Bound(connection, program, session.mint(), binding, -1, resident, free)


def handle_of(value: Any) -> Handle | None:
    """Return the handle behind a remote tensor or a carrier, None for anything local."""
    if isinstance(value, RemoteTensor):
        return value.handle
    return getattr(value, "genie_handle", None) if isinstance(value, torch.Tensor) else None


def is_expanded(tensor: torch.Tensor) -> bool:
    """Whether elements share memory because a dimension has stride 0; kernels take another path for those."""
    return 0 in tensor.stride() and any(st == 0 and n > 1 for n, st in zip(tensor.shape, tensor.stride(), strict=True))


class _Call:
    """One call on its way."""

    def __init__(self, session: Session, bound: Bound, lowered: LoweredProgram, plan: CallPlan) -> None:
        self._session = session
        self._bound = bound
        self._program = lowered.program
        self._plan = plan
        self._kept: list[Handle] = []
        self._written: list[tuple[torch.Tensor, Handle]] = []

    def run(self, args: list[Any], shapes: OutputShapes) -> list[Any]:
        session, bound = self._session, self._bound
        inputs = [self._input(i, args[i]) for i in bound.free]
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
        fetched = self._read_back(args, handles)
        if not fetched:
            session.flush()
        return [
            fetched[i] if i in fetched else self._result(i, output, handle, args)
            for i, (output, handle) in enumerate(zip(metadata, handles, strict=True))
        ]

    def _input(self, position: int, value: Any) -> m.CallInput:
        if not isinstance(value, torch.Tensor):
            return 0 if value is None else value  # an input nobody reads may be None
        handle = handle_of(value)
        if handle is None:
            kind = self._plan.input_kinds[position]
            if position not in self._program.mutated_inputs:
                inline = None if is_expanded(value) else self._session.inline(value, kind)
                if inline is not None:
                    return inline
            handle = self._put(value.detach(), kind)
            if position in self._program.mutated_inputs:
                self._written.append((value, handle))
        elif handle.session is not self._session:
            handle.session.check()
        self._kept.append(handle)
        return handle.id

    def _put(self, value: torch.Tensor, kind: str) -> Handle:
        """Send a local tensor; of an expanded one, what is repeated goes once and is expanded there."""
        if not is_expanded(value):
            return self._session.put(value, kind)
        shape = [1 if st == 0 else n for n, st in zip(value.shape, value.stride(), strict=True)]
        base = value.as_strided(shape, value.stride())
        handle = self._session.put(base, kind)
        expanded = handle_of(RemoteTensor(base.shape, base.stride(), base.dtype, handle).expand(value.shape))
        assert expanded is not None
        return expanded

    def _output_handle(self, index: int, output: OutputMetadata, args: Sequence[Any]) -> Handle | None:
        source = self._plan.passed_through[index]
        if output.dtype is None or (source >= 0 and isinstance(args[source], torch.Tensor)):
            return None
        handle = self._session.new_handle()
        handle.kind = self._plan.output_kinds[index]
        return handle

    def _result(self, index: int, output: OutputMetadata, handle: Handle | None, args: Sequence[Any]) -> Any:
        if handle is not None:
            assert output.dtype is not None
            return RemoteTensor(output.shape, output.stride, output.dtype, handle, None, output.offset)
        if output.dtype is None:
            return output.value
        source = args[self._plan.passed_through[index]]
        handle = handle_of(source)
        if handle is None or isinstance(source, RemoteTensor):
            return source
        return RemoteTensor(source.shape, source.stride(), source.dtype, handle, None, source.storage_offset())

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

    def _read_back(self, args: Sequence[Any], handles: list[Handle | None]) -> dict[int, torch.Tensor]:
        """Fetch what the program must have here, in one round trip; return outputs by index."""
        bound, session = self._bound, self._session
        slots = [bound.resident.index(i) for i in self._program.mutated_inputs if i in bound.resident]
        fetched = [i for i in sorted(self._plan.fetched) if handles[i] is not None]
        if not (slots or fetched or self._written):
            return {}
        names = [bound.binding.handles[slot] for slot in slots]
        names += [handle.id for _, handle in self._written]
        names += [handles[i].id for i in fetched]  # type: ignore[union-attr]
        kinds = ["weight"] * len(slots) + ["output"] * len(self._written) + ["gradient"] * len(fetched)
        values = session.fetch(names, kinds)
        with torch.no_grad():
            for slot, value in zip(slots, values, strict=False):
                args[bound.resident[slot]].copy_(value)
            if slots:
                bound.binding.mark_in_sync(slots)
            for (local, _), value in zip(self._written, values[len(slots) :], strict=False):
                local.copy_(value)
        return dict(zip(fetched, values[len(slots) + len(self._written) :], strict=True))
