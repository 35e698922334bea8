"""Programs and bindings as a session sent them, and what is known of their calls."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from dynamo_genie.runtime.recovery.program_memory import ProgramMemory, memory_of_program
from dynamo_genie.runtime.recovery.records import Bound, Takes
from dynamo_genie.runtime.recovery.steady import why_unsteady
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.program import Program, decode_program


@dataclass
class Registered:
    """A program as it was sent; what is known of its memory is read when it is called or bound first."""

    digest: bytes
    encoded: bytes
    engine: str
    device: str

    @cached_property
    def memory(self) -> tuple[ProgramMemory, int]:
        """Where its tensors lie, and how many inputs it has."""
        return memory_of_program(self._program), len(self._program.inputs)

    @cached_property
    def unsteady(self) -> str:
        """Why a call of it need not give the same bits again; empty where it does."""
        return why_unsteady(self._program, self.engine, self.device)

    @property
    def _program(self) -> Program:
        return decode_program(self.encoded)

    @cached_property
    def takes(self) -> Takes:
        """How its calls look that use no binding."""
        return Takes.of(*self.memory)


@dataclass(eq=False)
class SentBinding:
    """A binding as it was sent last, and what it names at present, if that is known."""

    command: m.BindWeights
    takes: Takes
    bound: Bound | None = None
    epoch: int = -1
