"""What the journal of a session is still to be told.

A call is queued in microseconds, and keeping a journal of it costs as much again. So commands are only noted at first,
in order, and entered while the session waits for an answer anyway, or when somebody asks for the journal.
"""

from __future__ import annotations

from dynamo_genie.runtime.recovery.journal import Journal
from dynamo_genie.runtime.wire import messages as m

MAX_NOTES = 64
"""What is noted keeps alive what it names."""


class Notes:
    """The notes on one session, under the session's lock.

    Attributes:
        written: The journal as far as it is written. Without the session's lock one may ask which it is, and no more.
    """

    def __init__(self, journal: Journal) -> None:
        self.written = journal
        self._notes: list[m.Command | tuple[int, ...]] = []

    @property
    def journal(self) -> Journal:
        """The journal, up to date."""
        self.enter()
        return self.written

    def add(self, command: m.Command) -> None:
        """Note a command that is about to be queued.

        Raises:
            NotRecoverable: It reads what could not be made again.
        """
        if self.written.lost:
            self.journal.note(command)
            return
        self._notes.append(command)
        if len(self._notes) >= MAX_NOTES:
            self.enter()

    def free(self, handles: tuple[int, ...]) -> None:
        """Note that handles are free."""
        self._notes.append(handles)

    def enter(self) -> None:
        """Enter all notes in the journal."""
        if not self._notes:
            return
        notes, self._notes = self._notes, []
        journal = self.written
        for note in notes:
            if type(note) is tuple:
                journal.forget(note)
            else:
                journal.note(note)  # type: ignore[arg-type]  # no command is a tuple
