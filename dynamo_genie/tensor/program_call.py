"""A call of a program: the one place where what it reads is sent, its results are named and `Call` is posted.

A compiled graph posts one for each of its parts, an eager operator one of its own, which has no binding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch

from dynamo_genie.errors import ProtocolError, StaleHandleError
from dynamo_genie.runtime.session.session import Handle, Session
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.program import Program
from dynamo_genie.tensor.memory_here import bring_here
from dynamo_genie.tensor.remote_tensor import RemoteTensor, handle_of, is_expanded

Move = Callable[[Handle, Session, str], Handle]
"""Brings what a handle names to another session, counted under a tensor class."""

COMMAND_NBYTES = 64
"""What a call without tensors of its own counts in the queue of commands."""


class LivesElsewhere(Exception):
    """An argument lives on another daemon, whose session is not locked."""


def refuse_to_move(handle: Handle, target: Session, kind: str) -> Handle:
    """Raise `LivesElsewhere`, or what ended the session on which the handle lives."""
    handle.session.check()
    raise LivesElsewhere


def written_kind(kind: str) -> str:
    """Return the tensor class under which an input of this class counts when it comes back with what was written."""
    return "output" if kind == "input" else kind


class ProgramCall:
    """One call of a program on its session, whose lock the caller holds. Keeps alive what it names until it is posted.

    Attributes:
        inputs: What the call carries so far: ids, numbers, and small tensors themselves.
        written: Local tensors that the program writes into, with the handles of their copies; a handle's `kind` is the
            class under which what was written counts.
    """

    __slots__ = ("_immediate", "_kept", "_move", "_outputs", "_program", "inputs", "session", "written")

    def __init__(
        self, session: Session, program: Program, move: Move = refuse_to_move, *, immediate: bool = False
    ) -> None:
        """Begin a call; an `immediate` one waits until it has run, and so will operators on its results.

        A program that makes and writes nothing is there for its error alone, which nobody could read later.
        """
        self.session = session
        self._immediate = immediate
        self.inputs: list[m.CallInput] = []
        self.written: list[tuple[torch.Tensor, Handle]] = []
        self._program = program
        self._move = move
        self._outputs: list[int] = []
        self._kept: list[Handle] = []

    def add(self, position: int, value: Any, kind: str = "input") -> None:
        """Send the program's input at `position`; `kind` is the tensor class under which its bytes are counted.

        Raises:
            StaleHandleError: The program writes into it, and it lives on another daemon.
        """
        handle = value if isinstance(value, Handle) else None
        if handle is None:
            if not isinstance(value, torch.Tensor):
                self.inputs.append(0 if value is None else value)  # an input nobody reads may be None
                return
            handle = handle_of(value)
        if handle is None:
            self._add_local(position, bring_here(value) if isinstance(value, RemoteTensor) else value, kind)
            return
        if handle.session is not self.session:
            self._refuse_to_write_a_copy(position)
            handle = self._move(handle, self.session, kind)
        elif position in self._program.mutated_inputs:
            handle.memory.written()
        self._kept.append(handle)
        self.inputs.append(handle.id)

    def name_result(self, kind: str = "output") -> Handle:
        """Return the handle of the program's next result."""
        handle = self.session.new_handle()
        handle.kind = kind
        handle.immediate = self._immediate
        self._outputs.append(handle.id)
        return handle

    def drop_result(self) -> None:
        """Name the program's next result nothing: the client knows it already."""
        self._outputs.append(0)

    def post(
        self,
        number: int,
        binding: int = 0,
        *,
        counted: Literal["calls", "eager_calls"] = "calls",
        generator: torch.Generator | None = None,
    ) -> None:
        """Post the call; waits only where the program draws random numbers, or the call is immediate.

        A program that draws uses the client's CPU generator: its state goes along and comes back advanced, so that the
        same seed gives what eager gives, and what is drawn next is what would have been drawn after eager, be it that
        the program failed after it had drawn.

        Args:
            number: The session's number of the program.
            binding: The session's number of the inputs that are bound; 0 for none.
            counted: The event that is counted.
            generator: What the program draws from, if not the default generator.
        """
        session, request, state = self.session, 0, b""
        session.counters.events[counted] += 1
        source = None
        if self._program.random:
            source = torch.default_generator if generator is None else generator
            state = source.get_state().numpy().tobytes()
        checks_only = not (self._program.outputs or self._program.mutated_inputs)
        if self._immediate or checks_only or source is not None:
            request = session.request_id()
        call = m.Call(number, binding, tuple(self.inputs), tuple(self._outputs), request, state)
        session.post(call, len(state) or COMMAND_NBYTES)
        if request:
            self._wait(request, source)

    def _wait(self, request: int, source: torch.Generator | None) -> None:
        """Wait until the call has run; bring the generator to where it is then, and raise what went wrong."""
        reply = self.session.ask(request)
        if not isinstance(reply, m.Failed | m.Done if source is None else m.Failed | m.RngAdvanced):
            raise ProtocolError(f"expected the outcome of a call, got {type(reply).__name__}")
        if source is not None and not isinstance(reply, m.Done) and reply.rng:
            source.set_state(torch.frombuffer(bytearray(reply.rng), dtype=torch.uint8))
        if isinstance(reply, m.Failed):
            raise self.session.failure(reply.error)

    def _refuse_to_write_a_copy(self, position: int) -> None:
        """Raise where the program would write into a copy of a tensor, and its original would never know."""
        if position in self._program.mutated_inputs:
            raise StaleHandleError(
                f"the compiled call writes into its input {position}, which lives on another daemon; "
                "name both in daemons=[...], or copy the tensor first"
            )

    def _add_local(self, position: int, value: torch.Tensor, kind: str) -> None:
        written = position in self._program.mutated_inputs
        if not written:
            inline = None if is_expanded(value) else self.session.inline(value, kind)
            if inline is not None:
                self.inputs.append(inline)
                return
        handle = self._put(value.detach(), kind)
        if written:
            handle.kind = written_kind(kind)
            self.written.append((value, handle))
        self._kept.append(handle)
        self.inputs.append(handle.id)

    def _put(self, value: torch.Tensor, kind: str) -> Handle:
        """Send a local tensor; of an expanded one, what is repeated goes once and is expanded there."""
        if not is_expanded(value):
            return self.session.put(value, kind)
        shape = [1 if st == 0 else n for n, st in zip(value.shape, value.stride(), strict=True)]
        base = value.as_strided(shape, value.stride())
        handle = self.session.put(base, kind)
        expanded = handle_of(RemoteTensor(base.shape, base.stride(), base.dtype, handle).expand(value.shape))
        assert expanded is not None
        return expanded
