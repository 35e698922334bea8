"""The identity of a session: what it has named and sent, and what a journal of it would begin with. Knows no worker."""

from __future__ import annotations

import threading

from dynamo_genie.errors import GenieError
from dynamo_genie.runtime.session.counters import Counters
from dynamo_genie.runtime.session.known_programs import KnownPrograms
from dynamo_genie.runtime.session.session_ids import SessionIds


class SessionIdentity:
    """The identity of one session, which outlives its attachments.

    Attributes:
        ids: What it has named.
        programs: What it has sent, and where that stands in the user's program.
        counters: What crossed the wire.
        lock: Makes each operation whole; whoever uses the rest holds it.
        batches: How many batches of commands were sent; their order goes on under another attachment.
        spoiled: Why no attachment can carry it on, None where one could.
    """

    def __init__(self) -> None:
        self.ids = SessionIds()
        self.programs = KnownPrograms()
        self.counters = Counters()
        self.lock = threading.RLock()
        self.batches = 0
        self.spoiled: GenieError | None = None

    def copy(self) -> SessionIdentity:
        """Return an identity that has named and sent as much, with counters and a lock of its own."""
        copy = SessionIdentity()
        copy.ids.last, copy.ids.last_request, copy.batches = self.ids.last, self.ids.last_request, self.batches
        copy.programs = self.programs.copy()
        return copy
