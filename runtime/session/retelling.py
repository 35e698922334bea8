"""Telling another worker all that the one before it knew: programs, weights, bindings, and what handles name."""

from __future__ import annotations

from dynamo_genie.runtime.recovery.held import Contents, FromFile, Offered
from dynamo_genie.runtime.recovery.notes import Notes
from dynamo_genie.runtime.recovery.replay import Make, Replay
from dynamo_genie.runtime.session.command_queue import CommandQueue
from dynamo_genie.runtime.session.session_ids import SessionIds
from dynamo_genie.runtime.session.uploads import Uploads
from dynamo_genie.runtime.session.weight_commands import WeightCommands
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.limits import MAX_CONTROL_NBYTES
from dynamo_genie.runtime.wire.tensor import InlineTensor


class Retelling:
    """Retells what a session has told, to a worker to which it has just been attached.

    Attributes:
        flush, settle: Send what was told; wait until it was done.
        mint: Returns fresh ids.
    """

    def __init__(
        self, notes: Notes, commands: CommandQueue, uploads: Uploads, weights: WeightCommands, ids: SessionIds
    ) -> None:
        self._notes = notes
        self._commands = commands
        self._uploads = uploads
        self._weights = weights
        self.flush, self.settle = commands.flush, commands.settle_quietly
        self.mint = ids.mint
        commands.tell_program = self._tell_program

    def begin(self) -> None:
        """Tell of weights and bindings; of a program when a command first needs it: a session may have had many."""
        journal, commands = self._notes.journal, self._commands
        waited_for = journal.pending, journal.asked
        try:
            commands.untold = set(journal.programs)
            self._weights.restore()
        finally:
            journal.pending, journal.asked = waited_for
        for binding in journal.bindings.values():
            if all(handle in journal.made for handle in binding.command.handles):
                commands.repeat(binding.command, 8 * len(binding.command.handles))

    def _tell_program(self, number: int) -> None:
        program = self._notes.journal.programs[number]
        encoded, upload = program.encoded, 0
        if len(encoded) > MAX_CONTROL_NBYTES // 2:
            encoded, upload = b"", self._uploads.send(memoryview(encoded), "control")
        self._commands.repeat(m.RegisterProgram(number, program.digest, encoded, upload, program.engine), len(encoded))

    def repeat(self, step: m.Command | Make) -> None:
        """Tell one step of a replay."""
        if not isinstance(step, Make):
            self._commands.repeat(step)
        elif isinstance(step.held, InlineTensor):
            self._commands.repeat(m.Put(step.handle, step.held), len(step.held.data))
        elif isinstance(step.held, FromFile):
            held = step.held
            again = m.LoadWeights(0, (step.handle,), held.model, (held.tensor,), held.dtype, (held.digest,))
            self._commands.repeat(again, len(held.model) + len(held.tensor) + 64)
        elif isinstance(step.held, Offered):
            self._repeat_offered(step.handle, step.held)
        else:
            self._repeat_upload(step.handle, step.held)

    def _repeat_offered(self, handle: int, held: Offered) -> None:
        """Name what the worker has, or send it, if that may be done; else what names it hears that it is gone."""
        contents = held.contents
        if contents is not None and contents.unchanged and self._lacks(held.digest):
            self._repeat_upload(handle, contents)
        else:
            self._commands.repeat(m.AdoptWeight(handle, held.digest, held.spec, viewed=True))

    def _lacks(self, digest: bytes) -> bool:
        journal = self._notes.journal
        waited_for = journal.pending, journal.asked
        try:
            return bool(self._weights.missing((digest,)))
        finally:
            journal.pending, journal.asked = waited_for

    def _repeat_upload(self, handle: int, contents: Contents) -> None:
        upload = self._uploads.send(contents.view, "input")
        self._commands.repeat(m.PutUploaded(handle, contents.spec, upload))

    def finish(self, replay: Replay) -> None:
        """Tell the rest, once all steps were done; what is waited for is then on its way."""
        self._notes.journal.lost.update(replay.lost)
        self._commands.save_lapsed()
        for step in replay.last:
            self.repeat(step)
        self._commands.frees = True
        self._commands.flush()
        if replay.refused:
            self._commands.refuse(replay.refused)
