"""The identity of a session: what it has named and sent, and what a journal of it would begin with. Knows no worker."""

from __future__ import annotations

import threading
from weakref import WeakValueDictionary

from dynamo_genie.runtime.session.call_log import CallLog
from dynamo_genie.runtime.session.counters import Counters
from dynamo_genie.runtime.session.failures import to_exception
from dynamo_genie.runtime.session.known_programs import KnownPrograms
from dynamo_genie.runtime.session.late_errors import LateErrors
from dynamo_genie.runtime.session.session_ids import SessionIds
from dynamo_genie.runtime.wire import messages as m


class SessionIdentity:
    """The identity of one session, which outlives its attachments.

    Attributes:
        ids: What it has named.
        programs: What it has sent, and where that stands in the user's program.
        counters: What crossed the wire.
        lock: Makes each operation whole; whoever uses the rest holds it.
        batches: How many batches of commands were made; their order goes on under another attachment.
        heard: The last batch to which the answers have come.
        calls: Its calls, as its worker counts them.
        late: What failed without an answer.
        sources: The identities of sessions that send this one tensors, by link.
        weights_doubtful: Whether a command failed that keeps the daemon's weights equal to the local ones.
    """

    def __init__(self) -> None:
        self.ids = SessionIds()
        self.programs = KnownPrograms()
        self.counters = Counters()
        self.lock = threading.RLock()
        self.batches = self.heard = 0
        self.calls = CallLog()
        self.late = LateErrors()
        self.sources: WeakValueDictionary[int, SessionIdentity] = WeakValueDictionary()
        self.weights_doubtful = False

    def begin_again(self) -> None:
        """Count as a worker does that knows nothing of this session."""
        self.batches = self.heard = 0
        self.calls.restart()
        self.late.restart()
        self.sources.clear()
        self.weights_doubtful = False

    def exception(self, error: m.ErrorInfo) -> Exception:
        """Return what to raise for a failure, with the operator, the line and the call it belongs to."""
        origin = self._origin(error)
        if origin is None:
            return to_exception(error)
        return to_exception(error, origin.programs.line(error), origin.calls.describe(error.call))

    def told(self, error: m.ErrorInfo) -> None:
        """Note that an error is being raised."""
        origin = self._origin(error)
        if origin is not None:
            origin.late.told(error.number)

    def _origin(self, error: m.ErrorInfo) -> SessionIdentity | None:
        """Return the session in which an error came up; None where the link is gone through which it came."""
        origin: SessionIdentity | None = self
        for link in error.route:
            origin = origin.sources.get(link) if origin is not None else None
        return origin

    def copy(self) -> SessionIdentity:
        """Return an identity that has named and sent as much, with counters and a lock of its own."""
        copy = SessionIdentity()
        copy.ids.last, copy.ids.last_request = self.ids.last, self.ids.last_request
        copy.batches, copy.heard = self.batches, self.heard
        copy.programs = self.programs.copy()
        return copy
