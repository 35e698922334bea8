"""Telling another worker all that the one before it knew: programs, weights, bindings, and what handles name."""

from __future__ import annotations

from collections.abc import Iterable

from dynamo_genie.runtime.recovery.journal import Journal
from dynamo_genie.runtime.recovery.records import Record
from dynamo_genie.runtime.recovery.replay import Make, Step, plan_replay
from dynamo_genie.runtime.session.command_queue import CommandQueue
from dynamo_genie.runtime.session.session_ids import SessionIds
from dynamo_genie.runtime.session.uploads import Uploads
from dynamo_genie.runtime.session.weight_commands import WeightCommands
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.limits import MAX_CONTROL_NBYTES
from dynamo_genie.runtime.wire.tensor import InlineTensor

SETTLE_EVERY = 256
"""So many steps are told before the worker is waited for."""


class Retelling:
    """Retells what a session has told, to a worker to which it has just been attached."""

    def __init__(
        self, journal: Journal, commands: CommandQueue, uploads: Uploads, weights: WeightCommands, ids: SessionIds
    ) -> None:
        self._journal = journal
        self._commands = commands
        self._uploads = uploads
        self._weights = weights
        self._ids = ids

    def tell(self, waited_for: tuple[m.Command | None, Record | None]) -> None:
        """Tell all; last what is waited for, whose answer is then on its way."""
        journal, commands = self._journal, self._commands
        self._tell_programs()
        self._weights.restore()
        for binding in journal.bindings.values():
            if all(handle in journal.made for handle in binding.command.handles):
                commands.repeat(binding.command, 8 * len(binding.command.handles))
        journal.pending, journal.asked = waited_for
        replay = plan_replay(journal, self._ids.mint)
        journal.lost.update(replay.lost)
        self._repeat(replay.steps)
        commands.settle_quietly()
        commands.save_lapsed()
        self._repeat(replay.last)
        commands.flush()
        if replay.refused:
            commands.refuse(replay.refused)

    def _tell_programs(self) -> None:
        for number, program in self._journal.programs.items():
            encoded, upload = program.encoded, 0
            if len(encoded) > MAX_CONTROL_NBYTES // 2:
                encoded, upload = b"", self._uploads.send(memoryview(encoded), "control")
            self._commands.repeat(
                m.RegisterProgram(number, program.digest, encoded, upload, program.engine), len(encoded)
            )

    def _repeat(self, steps: Iterable[Step]) -> None:
        for count, step in enumerate(steps, 1):
            if not isinstance(step, Make):
                self._commands.repeat(step)
            elif isinstance(step.held, InlineTensor):
                self._commands.repeat(m.Put(step.handle, step.held), len(step.held.data))
            else:
                upload = self._uploads.send(step.held.view, "input")
                self._commands.repeat(m.PutUploaded(step.handle, step.held.spec, upload))
            if count % SETTLE_EVERY == 0:
                self._commands.settle_quietly()
