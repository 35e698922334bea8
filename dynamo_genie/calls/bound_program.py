"""A program on one session, with the parameters, buffers and large constants that it always gets fixed there."""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
        resident: Slots of the arguments that are bound, in the order of the binding.
        free: Positions of the inputs that each call passes, with their slots.
        written: Indices into `resident` of what the program writes into.
    """

    def __init__(
        self,
        connection: Connection,
        lowered: LoweredProgram,
        slots: Sequence[int],
        resident: Collection[int],
        args: Sequence[Any],
        *,
        ask: bool = True,
        engine: str = AUTO,
        sampled: bool = False,
    ) -> None:
        """Bind inputs.

        Args:
            connection: Where to.
            lowered: The program.
            slots: Where among a call's values each input is; the first of those are the arguments.
            resident: Which arguments are bound.
            args: The arguments of a call.
            ask: Whether the daemon is asked which of them it has, or all are sent that this process did not send.
            engine: What runs the program in the daemon.
            sampled: Whether a sample will do of weights whose writes the kernel cannot tell.
        """
        self.session = connection.session
        self.lowered = lowered
        self.program = self.session.register(lowered.digest, lowered.encoded, lowered.node_lines, engine)
        self.number = self.session.mint()
        positions = [position for position, slot in enumerate(slots) if slot in resident]
        lifted = range(len(slots), len(slots) + len(lowered.lifted_constants))
        self._positions = (*positions, *lifted)
        self.resident = tuple(slots[position] for position in positions)
        self.free = tuple((position, slot) for position, slot in enumerate(slots) if slot not in resident)
        mutated = lowered.program.mutated_inputs
        self.written = tuple(index for index, position in enumerate(positions) if position in mutated)
        self._binding = connection.weights.bind(
            self._tensors(args), mutated=frozenset(self.written), ask=ask, sampled=sampled
        )
        self._generation = -1
        self._post_binding()

    @property
    def handle_ids(self) -> Sequence[int]:
        """The ids of the resident inputs, in the order of `resident`."""
        return self._binding.handles

    def sync(self, args: Sequence[Any]) -> None:
        """Make sure that the resident inputs on the daemon are those of this call."""
        self.session.whole(lambda: self._sync(args))

    def _sync(self, args: Sequence[Any]) -> None:
        self._binding.sync(self._tensors(args))
        self._post_binding()

    def hold_written(self) -> None:
        """Say that the program is about to be called, and change what it changes."""
        self._binding.hold_written()

    def mark_written_back(self) -> None:
        """Say that what the program wrote into resident inputs is in the local tensors too."""
        self._binding.mark_in_sync()

    def forget_written(self) -> None:
        """Say that the program failed, and what it would have written into resident inputs is not what is here."""
        self._binding.forget_written()

    def _tensors(self, args: Sequence[Any]) -> tuple[torch.Tensor, ...]:
        return (*[args[slot] for slot in self.resident], *self.lowered.lifted_constants)

    def _post_binding(self) -> None:
        if self._generation == self._binding.generation:
            return
        self._generation = self._binding.generation
        message = m.BindWeights(self.number, self.program, self._positions, tuple(self._binding.handles))
        self.session.post(message, 8 * len(self._positions))
