"""The inputs of a session's calls: resident tensors by their handles, small ones inside the message.

A binding names the inputs that stay the same from call to call, so that a call names the others only.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dynamo_genie.errors import ProtocolError, QuotaExceeded
from dynamo_genie.remote_daemon.memory.buffers import BufferStore
from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget
from dynamo_genie.remote_daemon.worker.handle_table import HandleTable, PoisonedInput
from dynamo_genie.remote_daemon.worker.programs import LoadedProgram
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.limits import MAX_FETCH_INLINE_NBYTES
from dynamo_genie.runtime.wire.tensor import InlineTensor
from dynamo_genie.tensors import spec_nbytes

BINDING_NBYTES, ITEM_NBYTES = 600, 100
"""What a binding costs, and each of its inputs."""


@dataclass
class Binding:
    """The resident inputs of a program, and the positions that a call fills.

    `template` has the resident tensors in their places; it is made anew when `epoch` is not the handle table's.
    """

    handles: tuple[int, ...]
    positions: tuple[int, ...]
    holes: tuple[int, ...]
    template: list[Any]
    epoch: int = -1


@dataclass(frozen=True)
class RefusedBinding:
    """A binding that could not be made: what it should have named, and why not."""

    positions: tuple[int, ...]
    handles: tuple[int, ...]
    error: m.ErrorInfo


class SessionInputs:
    """The bindings of one session, and what its calls name."""

    def __init__(self, handles: HandleTable, buffers: BufferStore, budget: MemoryBudget) -> None:
        """Count bindings in `budget`, that of host memory."""
        self._budget = budget
        self._paid: dict[int, int] = {}
        self._handles = handles
        self._buffers = buffers
        self._bindings: dict[int, Binding | RefusedBinding] = {}
        self._emptied = 0

    def bind(self, program: LoadedProgram, command: m.BindWeights) -> None:
        """Remember which tensors stand at some positions of a program.

        Raises:
            ProtocolError: Positions and handles do not fit one another or the program.
            QuotaExceeded: There is no room for it.
        """
        taken = set(command.positions)
        if len(taken) != len(command.handles) or not taken <= set(range(len(program.input_kinds))):
            raise ProtocolError("a binding must give one handle for each of its positions")
        self._pay(command.binding, BINDING_NBYTES + ITEM_NBYTES * (len(taken) + len(program.input_kinds)))
        for position, handle in zip(command.positions, command.handles, strict=True):
            if position in program.mutated:
                self._handles.writable(handle)
            self._handles.detach_from_arena(handle)
        holes = tuple(i for i in range(len(program.input_kinds)) if i not in taken)
        template = [None] * len(program.input_kinds)
        self._bindings[command.binding] = Binding(command.handles, command.positions, holes, template)
        self._handles.bound.update(command.handles)

    def of(self, program: LoadedProgram, call: m.Call) -> list[Any]:
        """Return the values that a call gives to its program, in order.

        Raises:
            PoisonedInput: The making of one of them failed.
            ProtocolError: They are not what the program takes, or name nothing.
            QuotaExceeded, torch.OutOfMemoryError: One does not fit in the device's memory.
        """
        tensor, writable = self._handles.tensor, self._handles.writable
        kinds = program.input_kinds
        if program.mutated and self._handles.lent:
            self._handles.before_write(self.named(call, program.mutated))
        if program.caches and self._handles.in_temporaries:  # first: a tensor looked up now would be left behind
            self._move_caches_to_pool(program, call)
        if program.mutated and self._handles.aliases:  # first: what shares memory with what is written moves along
            for handle in self.named(call, program.mutated):
                writable(handle)
        values: list[Any] = self._bound(call.binding) if call.binding else [None] * len(kinds)
        holes = self._holes(call, len(kinds))
        if len(holes) != len(call.inputs):
            raise ProtocolError(f"program {call.program} takes {len(holes)} inputs, not {len(call.inputs)}")
        if self._handles.arena_views:  # before any is looked up: one handle may stand at several positions
            self._detach(program, holes, call.inputs)
        for position, value in zip(holes, call.inputs, strict=True):
            kind = kinds[position]
            if kind is None:
                if type(value) is not int:
                    values[position] = self.inline(value)
                else:
                    values[position] = tensor(value) if position not in program.mutated else writable(value)
            elif type(value) is kind:
                values[position] = value
            else:
                raise ProtocolError(f"input {position} of program {call.program} must be {kind.__name__}")
        return values

    def _bound(self, number: int) -> list[Any]:
        """Return what a binding gives to its program, in order, with None where a call fills in."""
        binding = self._bindings.get(number)
        if binding is None:
            raise ProtocolError(f"binding {number} is unknown")
        if isinstance(binding, RefusedBinding):
            raise PoisonedInput(binding.error)
        if binding.epoch != self._handles.epoch:
            for position, handle in zip(binding.positions, binding.handles, strict=True):
                binding.template[position] = self._handles.detach_from_arena(handle)
            binding.epoch = self._handles.epoch
        return binding.template.copy()

    def refuse(self, command: m.BindWeights, error: m.ErrorInfo) -> None:
        """Let every call through a binding fail with `error`: what it named before is not what is meant now."""
        self._bindings.pop(command.binding, None)
        try:
            self._pay(command.binding, BINDING_NBYTES + ITEM_NBYTES * len(command.handles) + len(error.traceback))
        except QuotaExceeded:
            return  # a call that names it fails, too
        self._bindings[command.binding] = RefusedBinding(command.positions, command.handles, error)

    def close(self) -> None:
        """Forget all bindings."""
        self._bindings.clear()
        self._budget.release_overhead(sum(self._paid.values()))
        self._paid.clear()

    def _pay(self, binding: int, nbytes: int) -> None:
        self._budget.release_overhead(self._paid.pop(binding, 0))
        self._budget.reserve_overhead(nbytes, "a binding of weights")
        self._paid[binding] = nbytes

    def named(self, call: m.Call, positions: Collection[int]) -> list[int]:
        """Return the handles that a call gives to its program at some positions."""
        binding = self._bindings.get(call.binding)
        bound = zip(binding.positions, binding.handles, strict=False) if binding is not None else ()
        given = zip(self._holes(call, len(call.inputs)), call.inputs, strict=False)
        return [value for position, value in (*bound, *given) if position in positions and type(value) is int]

    def inline(self, tensor: Any) -> torch.Tensor:
        """Return a tensor that came inside a message."""
        if type(tensor) is not InlineTensor:
            raise ProtocolError(f"a tensor input must be a handle or inline data, not {type(tensor).__name__}")
        data = tensor.data
        if tensor.packed:
            expected = spec_nbytes(tensor.spec)
            if expected > MAX_FETCH_INLINE_NBYTES:
                raise ProtocolError(f"packed tensor of {expected} bytes is too large")
            data = zlib.decompressobj().decompress(data, expected + 1)
        return self._buffers.from_bytes(tensor.spec, data)

    def drop_moved(self) -> None:
        """Drop tensors that their handles do not name any more."""
        epoch = self._handles.epoch
        if epoch != self._emptied:
            self._emptied = epoch
            for binding in self._bindings.values():
                if isinstance(binding, Binding) and binding.epoch != epoch:
                    binding.template[:] = [None] * len(binding.template)

    def _holes(self, call: m.Call, n_inputs: int) -> Sequence[int]:
        """Return the positions that a call fills, of a program with so many inputs."""
        binding = self._bindings.get(call.binding)
        if isinstance(binding, RefusedBinding):
            return [i for i in range(len(binding.positions) + len(call.inputs)) if i not in binding.positions]
        return binding.holes if binding is not None else range(n_inputs)

    def _move_caches_to_pool(self, program: LoadedProgram, call: m.Call) -> None:
        """Move the caches that a program writes to into the resident pool, if a program has just made them."""
        holes = self._holes(call, len(call.inputs))
        positions = zip(holes, call.inputs, strict=False)  # their number is checked later
        self._handles.move_to_pool(
            value for position, value in positions if position in program.caches and type(value) is int
        )
        self.drop_moved()

    def _detach(self, program: LoadedProgram, holes: Sequence[int], inputs: Sequence[m.CallInput]) -> None:
        """Take out of their arenas the inputs that the program would not read as it reads a growing cache."""
        for position, value in zip(holes, inputs, strict=True):
            if position in program.read_otherwise and type(value) is int and value in self._handles.arena_views:
                self._handles.detach_from_arena(value)
