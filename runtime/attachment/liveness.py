"""Whether an attachment can be used by this process, and what ended it. Any thread may look and say so."""

from __future__ import annotations

import os
from collections import deque

from dynamo_genie.errors import GenieError, StaleHandleError


class Liveness:
    """The liveness of one attachment: it ends once, for the first reason that anybody gives.

    Attributes:
        silences: How often its ways were found to lead nowhere, as far as anybody can tell: connect anew.
    """

    def __init__(self) -> None:
        self.silences = 0
        self._pid = os.getpid()
        self._reasons: deque[GenieError] = deque()  # appending is atomic, so that no thread needs a lock

    @property
    def alive(self) -> bool:
        """Whether the attachment can be used by this process."""
        return not self._reasons and self._pid == os.getpid()

    @property
    def inherited(self) -> bool:
        """Whether this is a forked child, and the attachment its parent's."""
        return self._pid != os.getpid()

    @property
    def reason(self) -> GenieError | None:
        """What ended the attachment first, if anything did."""
        return self._reasons[0] if self._reasons else None

    def end(self, reason: GenieError) -> None:
        """Note what ended the attachment: a copy of it, for what is raised keeps alive all that its raisers hold."""
        self._reasons.append(type(reason)(str(reason)))

    def doubt(self) -> None:
        """Note that nothing comes any more by any way."""
        self.silences += 1

    def check(self) -> None:
        """Raise what ended the attachment, if anything did."""
        if self.alive:
            return
        if self.inherited:
            raise StaleHandleError(
                "this tensor belongs to the parent process; a forked child has a session of its own. Bring the tensor "
                "here before the fork, with dynamo_genie.to_local(tensor)"
            )
        assert self.reason is not None
        raise type(self.reason)(str(self.reason))
