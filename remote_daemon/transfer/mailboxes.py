"""The mailboxes of sessions that may attach: shared by the executor and the bulk thread."""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dynamo_genie.remote_daemon.memory.host_memory import Allocate, allocate_host
from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget
from dynamo_genie.remote_daemon.transfer.arrivals import Arrivals
from dynamo_genie.remote_daemon.transfer.staging import Staging
from dynamo_genie.remote_daemon.transfer.traffic import PeerTraffic
from dynamo_genie.runtime.wire.messages import AdmitSession


@dataclass
class SessionMailbox:
    """Where the executor and the bulk thread leave things for one session that the supervisor let in.

    Attributes:
        arrivals: Tensors from other workers.
        traffic: Bytes of tensors that went to and came from other workers.
        link_failures: Why a link to another worker can send nothing more, by its number.
    """

    session: bytes
    token: bytes
    client: str
    staging: Staging
    arrivals: Arrivals
    traffic: PeerTraffic
    link_failures: dict[int, str] = field(default_factory=dict)
    since: float = field(default_factory=time.monotonic)
    bulk_identity: bytes = b""


class SessionMailboxes:
    """The mailboxes of admitted sessions by id, and the ids whose state the executor has yet to free."""

    def __init__(
        self,
        budget: MemoryBudget,
        wake: Callable[[], None],
        allocate: Allocate = allocate_host,
        share: float = 1.0,
    ) -> None:
        """Make an empty list.

        Args:
            budget: What is on its way in counts here.
            wake: Makes the executor look whether what a session waits for has arrived.
            allocate: Returns host memory for what is on its way in.
            share: The part of the budget that one session may have.
        """
        self._share = share
        self._budget = budget
        self._allocate = allocate
        self._wake = wake
        self.traffic = PeerTraffic()
        self._lock = threading.Lock()
        self._admitted: dict[bytes, SessionMailbox] = {}
        self._dropped: list[bytes] = []

    def admit(self, message: AdmitSession) -> None:
        """Let a session attach with its token."""
        staging, traffic = Staging(self._budget, self._allocate, self._share), PeerTraffic(self.traffic)
        arrivals = Arrivals(staging, traffic, self._wake)
        mailbox = SessionMailbox(message.session, message.token, message.client, staging, arrivals, traffic)
        with self._lock:
            self._admitted[message.session] = mailbox

    def knows(self, session: bytes) -> bool:
        """Whether the session was admitted and not dropped since."""
        with self._lock:
            return session in self._admitted

    def attach(self, session: bytes, token: bytes) -> SessionMailbox | None:
        """Return a session's mailbox when the token is right."""
        with self._lock:
            mailbox = self._admitted.get(session)
        if mailbox is None or not hmac.compare_digest(mailbox.token, token):
            return None
        return mailbox

    def drop(self, session: bytes) -> None:
        """Shut a session out; the executor frees what it holds."""
        with self._lock:
            if self._admitted.pop(session, None) is not None:
                self._dropped.append(session)

    def take_dropped(self) -> list[bytes]:
        """Return the sessions dropped since the last call."""
        with self._lock:
            dropped, self._dropped = self._dropped, []
        return dropped

    def all(self) -> list[SessionMailbox]:
        """Every admitted session."""
        with self._lock:
            return list(self._admitted.values())
