"""What workers ran, and whether that was each command once, in order, with the values that plain torch has.

Knows nothing of how the record came about: `Recording` makes one of a command stream, in any process.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import msgspec
import torch
from torch import Tensor
from torch.fx import GraphModule

from dynamo_genie.remote_daemon.worker.command_stream import CommandStream, NotYet, Outcome
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.runtime.wire.tensor import InlineTensor, TensorSpec
from dynamo_genie.tensors import flat_bytes, from_flat_bytes
from tests.program_to_graph import raise_program

Value: TypeAlias = "Tensor | Exception"
"""What a handle names: a tensor, or why there is none."""


class Ran(msgspec.Struct, frozen=True, array_like=True):
    """A command that a worker ran.

    Attributes:
        session, epoch: Whose it is, and of which of the workers that the session has had.
        sequence, position, count: The batch, the command's place in it, and how many commands that has.
        answer: What the worker said to it.
        uploaded: The contents of the upload that the command names.
    """

    session: str
    epoch: int
    sequence: int
    position: int
    count: int
    command: m.Command
    answer: m.WorkerToClient | None = None
    uploaded: bytes = b""


class HistoryError(AssertionError):
    """Something ran twice, out of order, not at all, or gave another value than in plain torch."""


class Recording:
    """Stands between a command stream and its session, and tells what ran."""

    def __init__(self, stream: CommandStream[Any], tell: Callable[[Ran], None], session: str, epoch: int = 1) -> None:
        self._session = stream.session
        self._stream = stream
        self._tell = tell
        self._name, self._epoch = session, epoch
        stream.session = self

    def execute(self, command: m.Command, now: float, *, overdue: bool) -> Outcome:
        return self._recorded(self._session.execute, command, now, overdue)

    def cancel(self, command: m.Command, now: float, *, overdue: bool) -> Outcome:
        return self._recorded(self._session.cancel, command, now, overdue)

    def _recorded(self, run: Callable[..., Outcome], command: m.Command, now: float, overdue: bool) -> Outcome:
        upload = self._session.staging._finished.get(getattr(command, "upload", 0))
        uploaded = b"" if upload is None else bytes(upload.view)
        outcome = run(command, now, overdue=overdue)
        if not isinstance(outcome, NotYet):
            stream = self._stream
            place = stream._sequence, stream._position, len(stream._commands)
            self._tell(Ran(self._name, self._epoch, *place, command, outcome, uploaded))
        return outcome

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


class HistoryChecker:
    """Takes a record as it grows; raises `HistoryError` at the first command that should not be there.

    Attributes:
        commands: How many were checked.
    """

    def __init__(self) -> None:
        self._replays: dict[str, Replay] = {}
        self._weights: dict[bytes, Tensor] = {}
        self.commands = 0

    def take(self, ran: Ran) -> None:
        """Check the next command that ran."""
        replay = self._replays.get(ran.session)
        if replay is None or ran.epoch > replay.epoch:
            replay = self._replays[ran.session] = Replay(ran.epoch, self._weights)
        try:
            replay.take(ran)
        except HistoryError as error:
            where = f"session {ran.session}, epoch {ran.epoch}, batch {ran.sequence}, command {ran.position}"
            raise HistoryError(f"{where}: {error}") from None
        self.commands += 1

    def check(self, record: Iterable[Ran]) -> None:
        """Check a record."""
        for ran in record:
            self.take(ran)

    def values(self, session: str, epoch: int) -> dict[int, Value]:
        """What each handle of a session names now, at that one of its workers."""
        replay = self._replays.get(session)
        return replay.values if replay is not None and replay.epoch == epoch else {}


class Replay:
    """One epoch of a session, done again in plain torch; `weights` are all that any session stored, by digest."""

    def __init__(self, epoch: int, weights: dict[bytes, Tensor]) -> None:
        self.epoch = epoch
        self._weights = weights
        self.values: dict[int, Value] = {}
        self._programs: dict[int, tuple[p.Program, GraphModule]] = {}
        self._bindings: dict[int, m.BindWeights] = {}
        self._last = (0, 0, 0)

    def take(self, ran: Ran) -> None:
        if ran.epoch < self.epoch:
            raise HistoryError(f"ran when epoch {self.epoch} had begun")
        sequence, position, count = self._last
        due = (sequence, position + 1) if position + 1 < count else (sequence + 1, 0)
        if (ran.sequence, ran.position) != due:
            raise HistoryError(f"ran when command {due[1]} of batch {due[0]} was next")
        self._last = ran.sequence, ran.position, ran.count
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            self._repeat(ran)

    def _repeat(self, ran: Ran) -> None:
        match ran.command:
            case m.RegisterProgram() as command:
                program = p.decode_program(command.encoded or ran.uploaded)
                self._programs[command.program] = program, raise_program(program, [*map(tensor_of, program.constants)])
            case m.BindWeights() as command:
                self._bindings[command.binding] = command
            case m.Call() as command:
                self._call(command, ran.answer)
            case m.Free(handles):
                for each in handles:
                    self.values.pop(each, None)
            case m.Fetch(_, handles) | m.Save(_, handles):
                assert isinstance(ran.answer, m.Fetched | m.Saved)
                self._compare(handles, ran.answer.tensors)
            case m.Sync() | m.Describe() | m.Inspect() | m.QueryWeights():
                pass
            case command:
                self._make(command, ran.uploaded)

    def _make(self, command: m.Command, uploaded: bytes) -> None:
        match command:
            case m.Put(handle, tensor):
                self.values[handle] = tensor_of(tensor)
            case m.PutUploaded(handle, spec):
                self.values[handle] = tensor_from(uploaded, spec)
            case m.StoreWeight(digest, spec):
                self._weights[digest] = tensor_from(uploaded, spec)
            case m.AdoptWeight(handle, digest):
                self.values[handle] = self._weights[digest].clone()  # each session writes to its own
            case m.PatchWeight(handle, offset):
                patched = self.values[handle]
                assert isinstance(patched, Tensor)
                flat_bytes(patched)[offset : offset + len(uploaded)] = tensor_from_bytes(uploaded)
            case other:
                raise NotImplementedError(f"nobody has told this how to repeat {type(other).__name__}")

    def _call(self, call: m.Call, answer: m.WorkerToClient | None) -> None:
        program, run = self._programs[call.program]
        inputs = self._inputs(program, call)
        failed = next((each for each in inputs if isinstance(each, Exception)), None)
        results: Sequence[Any] = ()
        if call.rng:
            torch.default_generator.set_state(torch.frombuffer(bytearray(call.rng), dtype=torch.uint8))
        if failed is None:
            try:
                results = run(*inputs)
            except (RuntimeError, ValueError, TypeError, IndexError) as error:  # what operators raise
                failed = error
        if failed is not None:
            if program.mutated_inputs:
                raise NotImplementedError("nobody has told this what is spoiled when a program that writes fails")
            results = [failed] * len(call.outputs)
        if isinstance(answer, m.RngAdvanced) and torch.default_generator.get_state().numpy().tobytes() != answer.rng:
            raise HistoryError("the generator is in another state after it than plain torch's")
        self.values.update({handle: r for handle, r in zip(call.outputs, results, strict=True) if handle})

    def _inputs(self, program: p.Program, call: m.Call) -> list[Any]:
        bound: dict[int, int] = {}
        if call.binding:
            binding = self._bindings[call.binding]
            bound = dict(zip(binding.positions, binding.handles, strict=True))
        given = iter(call.inputs)
        inputs: list[Any] = []
        for position, kind in enumerate(program.inputs):
            each = bound[position] if position in bound else next(given)
            if isinstance(each, InlineTensor):
                inputs.append(tensor_of(each))
            else:
                inputs.append(self.values[int(each)] if isinstance(kind, p.TensorInput) else each)
        return inputs

    def _compare(self, handles: Sequence[int], told: Sequence[m.FetchedTensor | m.ErrorInfo | None]) -> None:
        for handle, found in zip(handles, told, strict=True):
            expected = self.values[handle]
            if isinstance(found, m.FetchedTensor) and isinstance(expected, Tensor):
                if found.data and not same_bits(tensor_from(found.data, found.spec), expected):
                    raise HistoryError(f"handle {handle} was told with another value than {expected}")
            elif isinstance(found, m.FetchedTensor) or (found is not None and isinstance(expected, Tensor)):
                raise HistoryError(f"of handle {handle} {found} was told, and in plain torch it is {expected}")


def tensor_of(inline: InlineTensor) -> Tensor:
    """Return a tensor that came in a message."""
    return tensor_from(zlib.decompress(inline.data) if inline.packed else inline.data, inline.spec)


def tensor_from(data: bytes, spec: TensorSpec) -> Tensor:
    """Return a tensor from its bytes."""
    return from_flat_bytes(tensor_from_bytes(data), spec)


def tensor_from_bytes(data: bytes) -> Tensor:
    """Return bytes as a flat tensor."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors look the same and have the same bits."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    a, b = (each.detach().contiguous().reshape(-1).view(torch.uint8) for each in (one, other))
    return torch.equal(a, b)
