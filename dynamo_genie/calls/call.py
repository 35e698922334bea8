"""One call of a graph on its way: part after part is sent, then what the program must have here is read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import torch

from dynamo_genie.calls.bound_program import BoundProgram
from dynamo_genie.calls.client_part import ClientPart
from dynamo_genie.calls.parts import Part, Placement
from dynamo_genie.calls.plan import CallPlan
from dynamo_genie.calls.saved import note_versions
from dynamo_genie.device.device_tensor import DeviceTensor
from dynamo_genie.lowering.output_shapes import OutputMetadata, OutputShapes
from dynamo_genie.runtime.session.peer_mesh import PeerMesh
from dynamo_genie.runtime.session.read_back import ReadBack
from dynamo_genie.runtime.session.session import Handle, Session
from dynamo_genie.tensor.memory_here import bring_here
from dynamo_genie.tensor.program_call import ProgramCall, refuse_to_move
from dynamo_genie.tensor.remote_tensor import RemoteTensor, handle_of, is_expanded
from dynamo_genie.torch_internals.guarded_memory import CPU


class GraphCall:
    """A call of a graph. Its caller holds the locks of all sessions in `held`.

    Attributes:
        metadata: Shapes of the graph's results, as far as they are known.
        values: Arguments and intermediate values so far, by slot; what daemons made is a `Handle`.
    """

    def __init__(
        self,
        placement: Placement,
        plan: CallPlan,
        shapes: OutputShapes,
        args: Sequence[Any],
        held: Collection[Session],
        mesh: PeerMesh,
    ) -> None:
        self.metadata = shapes.evaluate(args)
        self.values: list[Any] = [*args, *[None] * placement.n_made]
        for slot, size in placement.told:
            self.values[slot] = size.evaluate(args)[0].value
        self._args = args
        self._reread = placement.reread
        self._connections = placement.connections
        self._here: dict[int, torch.Tensor | None] = {}
        self._there: dict[tuple[int, Session], Handle] = {}
        self._asks = shapes.depends_on_data
        self._results = placement.results
        self._shared = plan.shared
        self._fetched = plan.fetched
        self._immediate, self._saved = plan.immediate, plan.saved
        self._numbers = plan.numbers
        self._held = held
        self._mesh = mesh
        self._moved: dict[tuple[Handle, Session], Handle] = {}
        self._sessions: dict[Session, None] = {}
        self._wanted = ReadBack()

    def send(self, part: Part, bound: BoundProgram, session: Session) -> None:
        """Send one part; everything that it reads has been sent before."""
        values, kinds = self.values, part.input_kinds
        call = ProgramCall(session, part.lowered.program, self._move, immediate=self._immediate)
        written = part.lowered.program.mutated_inputs
        for position, slot in bound.free:
            if slot in self._reread and position not in written:
                call.add(position, self._there_once(slot, session, kinds[position]), kinds[position])
            else:
                call.add(position, values[slot], kinds[position])
        for result in part.results:
            if result is None:
                call.drop_result()
            else:
                values[result[0]] = call.name_result(result[1])
        if bound.written:
            self._hold_written(bound, session)
        try:
            call.post(bound.program, bound.number)
        except BaseException:
            if bound.written:
                bound.forget_written()
            raise
        self._sessions[session] = None
        for index in bound.written:
            local = values[bound.resident[index]]
            self._wanted.want(session, bound.handle_ids[index], "weight", local.copy_)
        if bound.written:
            self._wanted.afterwards(bound.mark_written_back, bound.forget_written)
        for local, handle in call.written:
            self._wanted.want_handle(handle, handle.kind, local.copy_)

    def _hold_written(self, bound: BoundProgram, session: Session) -> None:
        """Say that a program is about to change weights, of which other sessions may have copies."""
        bound.hold_written()
        for connection in self._connections:
            if connection.session is not session:
                connection.weights.change(self.values[bound.resident[index]] for index in bound.written)

    def wanted_by(self, part: ClientPart) -> ReadBack:
        """Have the daemons begin; return what is to be fetched before the client runs a part.

        With it comes what earlier parts wrote into local tensors: should the client's part fail, nothing is lost.
        """
        for slot, shapes in zip(part.inputs, part.input_shapes, strict=True):
            value = self.values[slot]
            handle = value if isinstance(value, Handle) else handle_of(value)
            if handle is not None and slot not in self._here:
                self._here[slot] = None
                output = shapes.evaluate(self._args)[0]
                self._wanted.want_handle(handle, handle.kind, partial(_deliver, self._here, slot, output))
        wanted, self._wanted = self._wanted, ReadBack()
        if len(self._sessions) > 1 or not wanted:
            self._flush()
        return wanted

    def run_here(self, part: ClientPart) -> None:
        """Run a part on the client; what it reads is here. No lock needs to be held."""
        here = self._here
        results = part.run(*[self.values[slot] if here.get(slot) is None else here[slot] for slot in part.inputs])
        for slot, value in zip(part.results, results, strict=True):
            self.values[slot] = value
        for slot in part.written:
            if here.get(slot) is not None:
                _remote(self.values[slot]).copy_(here[slot])  # type: ignore[arg-type]  # it was fetched

    def results(self) -> list[Any]:
        """Return the graph's results, remote but for those the program must have here."""
        fetched: dict[int, Any] = {}
        self.read(fetched).fetch()
        for i in self._numbers & fetched.keys():
            fetched[i] = fetched[i].item()
        results = [
            fetched[i] if i in fetched else wrap_result(output, self.values[slot])
            for i, (output, slot) in enumerate(zip(self.metadata, self._results, strict=True))
        ]
        for group in self._shared:
            self._share(results, group)
        note_versions(self._saved, self.values, results)
        return results

    def _share(self, results: list[Any], group: tuple[int, ...]) -> None:
        """Let results know that they live in one memory, and bring it here if one of them must be here."""
        remote = [(i, results[i]) for i in group if isinstance(results[i], RemoteTensor)]
        homes: dict[Session, list[RemoteTensor]] = {}
        for _, tensor in remote:
            homes.setdefault(tensor.named().session, []).append(tensor)
        for tensors in homes.values():
            memory, nbytes = tensors[0].memory, max(tensor.memory_nbytes for tensor in tensors)
            for tensor in tensors:
                tensor.named().memory = memory
            memory.nbytes = nbytes
        for i, tensor in remote:
            if i in self._fetched:
                results[i] = bring_here(tensor)

    def read(self, into: dict[int, Any]) -> ReadBack:
        """Have the daemons begin; return what is to be fetched, of which results come `into`, by position."""
        several = len(self._sessions) > 1
        if several:  # all run before one of them is waited for
            self._flush()
        if self._asks:
            self._ask()
        for i in sorted(self._fetched.difference(*self._shared)):
            handle = self.values[self._results[i]]
            if isinstance(handle, Handle):
                self._wanted.want_handle(handle, handle.kind, partial(_deliver, into, i, self.metadata[i]))
        if not (several or self._wanted):
            self._flush()
        return self._wanted

    def named(self) -> list[tuple[int, Handle]]:
        """Return the positions of the results that daemons made, with their handles."""
        found = ((i, self.values[slot]) for i, slot in enumerate(self._results))
        return [(i, value) for i, value in found if isinstance(value, Handle)]

    def _move(self, handle: Handle, target: Session, kind: str) -> Handle:
        """Have a value brought to another daemon, once a call."""
        if handle.session not in self._held:
            return refuse_to_move(handle, target, kind)
        key = handle, target
        if key not in self._moved:
            self._moved[key] = self._mesh.move(handle, target, kind)
        return self._moved[key]

    def _there_once(self, slot: int, session: Session, kind: str) -> Any:
        """Return a value that several programs of a session read; a local tensor is put there for all of them."""
        value = self.values[slot]
        if not isinstance(value, torch.Tensor) or handle_of(value) is not None or is_expanded(value):
            return value
        key = slot, session
        if key not in self._there:
            self._there[key] = session.put(value.detach(), kind)
        return self._there[key]

    def _flush(self) -> None:
        for session in self._sessions:
            session.flush()

    def _ask(self) -> None:
        """Learn the shapes that depend on data from the daemons."""
        metadata, named = list(self.metadata), self.named()
        for session in self._sessions:
            own = [(i, handle) for i, handle in named if handle.session is session]
            for (i, _), spec in zip(own, session.describe([handle for _, handle in own]), strict=True):
                metadata[i] = OutputMetadata(metadata[i].dtype, spec.shape, spec.stride, device=metadata[i].device)
        self.metadata = metadata


def wrap_result(output: OutputMetadata, value: Any) -> Any:
    """Return one result of a call: a remote tensor, a plain value, or the argument that it is.

    Args:
        output: Its shape and dtype, or its value where it is plain.
        value: What it is called in the daemon, or the argument that the graph passes through.
    """
    if output.dtype is None:
        return output.value if value is None else value
    if isinstance(value, Handle):
        return _kind_on(output.device)(output.shape, output.stride, output.dtype, value, None, output.offset)
    return value if handle_of(value) is None or isinstance(value, RemoteTensor) else _remote(value)


def _remote(argument: torch.Tensor) -> RemoteTensor:
    """Return the remote tensor that an argument of a compiled call stands for."""
    handle = handle_of(argument)
    kind = _kind_on(argument.device)
    return kind(argument.shape, argument.stride(), argument.dtype, handle, None, argument.storage_offset())


def _kind_on(device: torch.device) -> type[RemoteTensor]:
    """Return the class of remote tensors that claim to be on a device."""
    return RemoteTensor if device is CPU or device == CPU else DeviceTensor


def _deliver(fetched: dict[int, Any], position: int, output: OutputMetadata, value: torch.Tensor) -> None:
    fetched[position] = value if output.stride is None else _laid_out(value, output)


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
