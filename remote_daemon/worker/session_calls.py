"""A session's commands about programs: register one, bind its inputs, call it.

A call is launched in two steps, `prepare` and `complete`, with the program's run between them: what is looked up is
known before anything runs, and results get their handles when they are there.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import msgspec
import torch

from dynamo_genie.errors import GenieError, ProtocolError
from dynamo_genie.remote_daemon.memory.out_of_memory import is_out_of_memory
from dynamo_genie.remote_daemon.transfer.staging import Staging
from dynamo_genie.remote_daemon.worker.failures import FailedDraw
from dynamo_genie.remote_daemon.worker.handle_table import HandleTable, PoisonedInput
from dynamo_genie.remote_daemon.worker.programs import LoadedProgram
from dynamo_genie.remote_daemon.worker.session_inputs import SessionInputs
from dynamo_genie.remote_daemon.worker.state import WorkerState
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.limits import MAX_ITEMS, MAX_SPANS, MAX_STRING
from dynamo_genie.runtime.wire.program import decode_program
from dynamo_genie.runtime.wire.record import ErrorInfo, brief

MAX_REFUSED = 4096
"""Refused programs whose reason is kept for those who call them."""

MAX_REFUSED_WHOLE = 64
"""Those of which all is kept."""

FREED_SHARE = 8
"""Where a program lacks memory, an eighth of all that may be used is freed at a time."""


_ABSENT = ErrorInfo(
    kind="RuntimeError",
    message="this result is not there: the operator's kernel returned none",
    operator="",
    program=-1,
    node=-1,
    traceback="",
)
"""What a result is poisoned with that a kernel left out: it has a name, and nobody reads it."""


class Launch(msgspec.Struct, frozen=True):
    """A call whose program and inputs were looked up, and that has not run.

    Attributes:
        inputs: In order; running the program empties the list.
        outputs: The handles for the results; 0 for one that nobody wants.
    """

    program: LoadedProgram
    inputs: list[Any]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class RefusedProgram:
    """A program that could not be registered: why, and which inputs it would have written."""

    error: m.ErrorInfo
    mutated: Collection[int]


class SessionCalls:
    """Executes `RegisterProgram`, `BindWeights` and `Call` of one session.

    Attributes:
        count: How many calls ran.
        taken: How many came, with those that failed.
    """

    def __init__(self, state: WorkerState, staging: Staging, handles: HandleTable, inputs: SessionInputs) -> None:
        self._state = state
        self._staging = staging
        self._handles = handles
        self._inputs = inputs
        self._programs: dict[int, LoadedProgram] = {}
        self._refused: dict[int, RefusedProgram] = {}
        self._unloaded: Collection[int] = ()
        self._told_of: set[int] = set()
        self._spans: deque[tuple[int, int, int]] = deque(maxlen=MAX_SPANS)
        self.count = 0
        self.taken = 0

    def register(self, command: m.RegisterProgram) -> m.EngineFellBack | None:
        """Load a program under a number."""
        encoded = command.encoded
        if command.upload:
            encoded = self._staging.claim(command.upload).memory.numpy().tobytes()
        try:
            program = self._state.programs.load(command.digest, encoded, command.engine)
        except Exception:
            self._unloaded = _written_by(encoded)
            raise
        self._name(command.program, program)
        return self._news_of(command.program, program)

    def refuse(self, command: m.RegisterProgram, error: m.ErrorInfo) -> None:
        """Remember why a program could not be registered, for those who call it."""
        self._name(command.program, None)
        if len(self._refused) < MAX_REFUSED:
            self._refused[command.program] = RefusedProgram(error, self._unloaded)
            if len(self._refused) > MAX_REFUSED_WHOLE:  # any call may write what such a program may
                self._refused[command.program] = RefusedProgram(brief(error), range(MAX_ITEMS))
        self._unloaded = ()

    def close(self) -> None:
        """Name no program any more."""
        for number in list(self._programs):
            self._name(number, None)

    def _name(self, number: int, program: LoadedProgram | None) -> None:
        """Let a number name a program, or none; what is named stays loaded."""
        before = self._programs.pop(number, None)
        if before is not None:
            before.users -= 1
        if program is not None:
            program.users += 1
            self._programs[number] = program

    def poison(self, call: m.Call, error: m.ErrorInfo) -> None:
        """Let fail with `error` what a failed call should have made, and what it may have written or not."""
        for handle in call.outputs:
            self._handles.spoil(handle, error)
        program = self._programs.get(call.program) or self._refused.get(call.program)
        if program is not None:
            for handle in self._inputs.named(call, program.mutated):
                self._handles.spoil_memory(handle, error)

    def bind(self, command: m.BindWeights) -> None:
        """Remember which tensors stand at some positions of a program."""
        self._inputs.bind(self._program(command.program), command)

    def call(self, call: m.Call) -> m.WorkerToClient | None:
        """Run a program and name its results."""
        self.taken += 1
        launch = self.prepare(call)
        self.count += 1
        self._state.served.calls += 1
        started = time.time_ns()
        self._state.note.begin(launch.program.digest)
        try:
            if launch.program.random:
                reply: m.WorkerToClient | None = self._draw(launch, call)
            else:
                self.complete(launch, self._run(launch, call))
                reply = m.Done(call.request_id) if call.request_id else self._news_of(call.program, launch.program)
        finally:
            self._state.note.end()
        self._spans.append((call.program, started, time.time_ns()))
        return reply

    def prepare(self, call: m.Call) -> Launch:
        """Look up all that a call names; nothing runs.

        Raises:
            PoisonedInput: The making of something that it names failed.
            ProtocolError: It is not what the program takes, or names nothing.
            QuotaExceeded, torch.OutOfMemoryError: An input does not fit in the device's memory.
        """
        program = self._program(call.program)
        inputs = self._inputs.of(program, call)
        if len(call.outputs) != program.outputs:
            raise ProtocolError(f"program {call.program} has {program.outputs} outputs, not {len(call.outputs)}")
        return Launch(program, inputs, call.outputs)

    def complete(self, launch: Launch, values: Sequence[Any]) -> None:
        """Let the handles of a launch name what its program returned.

        A kernel may leave a result out, as that of `mkldnn_rnn_layer` does what only its backward wants.

        Raises:
            QuotaExceeded: The memory limit is reached.
        """
        for handle, value in zip(launch.outputs, values, strict=True):
            if handle and value is None:
                self._handles.poison(handle, _ABSENT)
            elif handle:
                self._handles.add(handle, value, made=True)

    def writes(self, call: m.Call) -> bool:
        """Whether a call writes to its inputs, as far as one can tell; for any thread."""
        program = self._programs.get(call.program)
        return program is None or bool(program.mutated)

    def take_spans(self) -> tuple[tuple[int, int, int], ...]:
        """Return program, begin and end of the calls since the last time."""
        spans = tuple(self._spans)
        self._spans.clear()
        return spans

    def engines(self) -> tuple[tuple[int, str, str], ...]:
        """Return number, engine and the reason for it of the programs."""
        programs = islice(self._programs.items(), MAX_ITEMS)
        return tuple((number, p.executable.engine, p.executable.reason[:MAX_STRING]) for number, p in programs)

    def _program(self, number: int) -> LoadedProgram:
        program = self._programs.get(number)
        if program is None:
            if number in self._refused:
                raise PoisonedInput(self._refused[number].error)
            raise ProtocolError(f"program {number} is not registered")
        return program

    def _run(self, launch: Launch, call: m.Call) -> tuple[Any, ...]:
        """Run a program; where memory is lacking and it writes to no input, free some and run it again."""
        state = self._state
        while True:
            try:
                return launch.program.executable(launch.inputs)
            except Exception as error:
                share = state.budget.limit // FREED_SHARE
                if launch.program.mutated or not is_out_of_memory(error) or not state.offloader.free_some(share):
                    raise
            state.buffers.reclaim()
            launch = self.prepare(call)

    def _draw(self, launch: Launch, call: m.Call) -> m.RngAdvanced:
        """Run a program that draws random numbers, from the client's generator state."""
        if not call.rng or not call.request_id:
            raise ProtocolError("a program that draws random numbers was called without a generator state")
        generator = torch.default_generator
        generator.set_state(torch.frombuffer(bytearray(call.rng), dtype=torch.uint8))
        try:
            self.complete(launch, launch.program.executable(launch.inputs))
        except Exception as error:
            raise FailedDraw(generator.get_state().numpy().tobytes()) from error
        return m.RngAdvanced(call.request_id, generator.get_state().numpy().tobytes())

    def _news_of(self, number: int, program: LoadedProgram) -> m.EngineFellBack | None:
        """Return what the client should hear of a program's engine, once."""
        running = program.executable
        if not running.fell_back or number in self._told_of:
            return None
        self._told_of.add(number)
        return m.EngineFellBack(number, running.reason[:MAX_STRING])


def _written_by(encoded: bytes) -> Collection[int]:
    """Return the inputs that a program writes: all it may have, where it cannot be read."""
    try:
        return decode_program(encoded).mutated_inputs
    except GenieError:
        return range(MAX_ITEMS)
