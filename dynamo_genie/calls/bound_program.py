"""A program on one session, with the parameters, buffers and large constants that it always gets fixed there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dynamo_genie.connections.connection import Connection
from dynamo_genie.engines import AUTO
from dynamo_genie.lowering.graph import LoweredProgram
from dynamo_genie.runtime.wire import messages as m


class BoundProgram:
    """Registers a program and binds its resident inputs; `sync` proves before each call that they are still right.

    Attributes:
        program: The session's number of the program.
        number: The session's number of the binding.
        resident: Positions of the inputs that are bound.
        free: Positions of the inputs that each call passes.
    """

    def __init__(
        self,
        connection: Connection,
        lowered: LoweredProgram,
        args: Sequence[Any],
        resident: tuple[int, ...],
        *,
        ask: bool = True,
        engine: str = AUTO,
    ) -> None:
        """Bind the inputs at `resident`; `ask` which of them the daemon has, or send all that this process did not."""
        session = connection.session
        self.connection = connection
        self.session = session
        self.lowered = lowered
        self.program = session.register(lowered.digest, lowered.encoded, lowered.node_lines, engine)
        self.number = session.mint()
        self.resident = resident
        self.free = tuple(i for i in range(len(args)) if i not in resident)
        self.written = tuple(i for i in resident if i in lowered.program.mutated_inputs)
        mutated = frozenset(resident.index(i) for i in self.written)
        self.binding = connection.weights.bind(self._tensors(args), mutated=mutated, ask=ask)
        self._generation = -1
        self._announce(len(args))

    def sync(self, args: Sequence[Any]) -> None:
        """Make sure that the resident inputs on the daemon are those of this call."""
        self.binding.sync(self._tensors(args))
        self._announce(len(args))

    def handle_id(self, position: int) -> int:
        """Return the id of the resident input at a position."""
        return self.binding.handles[self.resident.index(position)]

    def mark_written_back(self) -> None:
        """Say that what the program wrote into resident inputs is in the local tensors too."""
        self.binding.mark_in_sync([self.resident.index(i) for i in self.written])

    def _tensors(self, args: Sequence[Any]) -> tuple[torch.Tensor, ...]:
        return (*[args[i] for i in self.resident], *self.lowered.lifted_constants)

    def _announce(self, n_args: int) -> None:
        if self._generation == self.binding.generation:
            return
        self._generation = self.binding.generation
        lifted = range(n_args, n_args + len(self.lowered.lifted_constants))
        positions = (*self.resident, *lifted)
        message = m.BindWeights(self.number, self.program, positions, tuple(self.binding.handles))
        self.session.post(message, 8 * len(positions))
