"""Inbound links, by which other workers reach this one: admitted by a session's client, attached once, gone with it.

Belongs to the bulk thread, except `public_keys`, which the authenticator asks for.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from dynamo_genie.errors import ProtocolError, QuotaExceeded, VersionMismatch
from dynamo_genie.remote_daemon.transfer.arrivals import Arrivals
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.version import PROTOCOLS

MAX_LINKS = 256
"""Links into one session."""


@dataclass
class InboundLink:
    """One link. `identity` is its connection, empty until the other worker has attached."""

    number: int
    session: bytes
    arrivals: Arrivals
    admitted: m.AdmitPeer
    identity: bytes = b""
    taken: int = 0

    def describe(self) -> str:
        """Name both ends, for people."""
        return f"the daemon at {self.admitted.sender} to this one at {self.admitted.endpoint}"


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()  # what is looked up is not the secret, so its timing tells nothing


class InboundLinks:
    """All links into this worker, by token, by connection, and by session and number."""

    def __init__(self) -> None:
        self._by_token: dict[bytes, InboundLink] = {}
        self._by_identity: dict[bytes, InboundLink] = {}
        self._by_number: dict[tuple[bytes, int], InboundLink] = {}
        self.public_keys: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self._by_number)

    def admit(self, session: bytes, arrivals: Arrivals, message: m.AdmitPeer) -> m.Attached:
        """Let a worker attach with a token.

        Raises:
            ProtocolError: The number or the token is in use.
            QuotaExceeded: The session has too many links.
        """
        token = _digest(message.token)
        known = self._by_token.get(token)
        if known is not None and (known.session, known.number) == (session, message.link):
            return m.Attached(message.request_id)  # said again, after the client's connection broke
        if (session, message.link) in self._by_number or token in self._by_token:
            raise ProtocolError(f"link {message.link} or its token is in use already")
        if sum(key[0] == session for key in self._by_number) >= MAX_LINKS:
            raise QuotaExceeded(f"more than {MAX_LINKS} links into one session")
        link = InboundLink(message.link, session, arrivals, message)
        hint = f"which never opened; can that machine reach {message.endpoint}?"
        arrivals.note_link(link.number, f"the link from {link.describe()}, {hint}")
        self._by_token[token] = self._by_number[session, message.link] = link
        self._note_keys()
        return m.Attached(message.request_id)

    def attach(self, identity: bytes, user: str, message: m.AttachPeer) -> m.Attached:
        """Open a link on a connection whose proven key is `user`.

        Raises:
            VersionMismatch: The other worker speaks another protocol.
            ProtocolError: The token is unknown or used, or the key is not the one that was admitted with it.
        """
        if message.protocol not in PROTOCOLS:
            raise VersionMismatch(f"the sending worker speaks protocol {message.protocol}, this one {list(PROTOCOLS)}")
        link = self._by_token.get(_digest(message.token))
        if link is None or link.identity or user != link.admitted.public_key:
            raise ProtocolError("this token opens no link, or did so already, or wants another key")
        link.identity = identity
        hint = "which is open; does that daemon still compute what it is to send?"
        link.arrivals.note_link(link.number, f"the link from {link.describe()}, {hint}")
        self._by_identity[identity] = link
        return m.Attached(message.request_id)

    def of(self, identity: bytes) -> InboundLink | None:
        """Return the link that is attached on a connection."""
        return self._by_identity.get(identity)

    def awaited(self) -> list[InboundLink]:
        """Return the attached links that an executor waits for."""
        return [link for link in self._by_identity.values() if link.arrivals.awaited_link == link.number]

    def dismiss(self, session: bytes, number: int) -> InboundLink | None:
        """Forget a link and return it."""
        link = self._by_number.pop((session, number), None)
        if link is not None:
            self._by_token.pop(_digest(link.admitted.token), None)
            self._by_identity.pop(link.identity, None)
            self._note_keys()
        return link

    def forget(self, session: bytes) -> None:
        """Forget the links into a session."""
        for number in [key[1] for key in self._by_number if key[0] == session]:
            self.dismiss(session, number)

    def _note_keys(self) -> None:
        keys = (link.admitted.public_key for link in self._by_number.values())
        self.public_keys = frozenset(key for key in keys if key)
