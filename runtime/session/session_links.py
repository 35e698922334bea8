"""The ends of links in a session: who may send its worker tensors, whom its worker sends some, how fast that is."""

from __future__ import annotations

from typing import Protocol

from dynamo_genie.errors import DaemonUnavailable, SessionLost
from dynamo_genie.runtime.attachment.attachment import Attachment
from dynamo_genie.runtime.recovery.recovery import Recovery
from dynamo_genie.runtime.session.bulk import BulkConnection
from dynamo_genie.runtime.session.identity import SessionIdentity
from dynamo_genie.runtime.session.measured_link import MeasuredLink
from dynamo_genie.runtime.wire import messages as m


class SourceGone(SessionLost):
    """A worker is gone that was to send something which this session waits for: it begins again with that one."""


class LinkSource(Protocol):
    """The session at the other end of a link."""

    @property
    def attachment(self) -> Attachment:
        """What leads to its worker at present."""

    @property
    def recovery(self) -> Recovery[Attachment] | None:
        """What it goes on with when its worker is gone."""

    @property
    def identity(self) -> SessionIdentity:
        """What it has named and sent."""

    @property
    def bulk_endpoint(self) -> str:
        """Where its worker takes bulk data."""


class SessionLinks:
    """The ends of links in one session. `PeerMesh` opens links between two."""

    def __init__(
        self, identity: SessionIdentity, bulk: BulkConnection, recovery: Recovery[Attachment] | None = None
    ) -> None:
        self._recovery = recovery
        self._identity = identity
        self._ids = identity.ids
        self._bulk = bulk
        self._last_transfer = 0
        self._sources: dict[int, tuple[LinkSource, Attachment]] = {}

    def admit(self, token: bytes, public_key: str, source: LinkSource) -> int:
        """Let the worker that shows `token` send tensors to this one; return the number of the link.

        Waits until the worker knows, which takes it no time even while it computes.

        Args:
            token: A secret of this link, 32 bytes, that the other session passes on (`open`).
            public_key: The key that the other worker will prove; empty where this daemon has no keys.
            source: The other worker's session. When it is lost, nothing here waits for its tensors any longer.
        """
        link = self._ids.mint()
        message = m.AdmitPeer(self._ids.request(), link, token, public_key, source.bulk_endpoint, self._bulk.endpoint)
        self._bulk.admit_peer(message)
        self._sources[link] = source, source.attachment
        self._identity.sources[link] = source.identity  # an error that comes through the link belongs to a call there
        return link

    def open(self, endpoint: str, token: bytes, keys: m.PeerKeys | None) -> int:
        """Let this session's worker connect to another one's bulk endpoint; return the number of the link."""
        link = self._ids.mint()
        self._bulk.open_peer(m.OpenPeer(link, endpoint, token, keys))
        return link

    def close(self, link: int) -> None:
        """Close a link made by `open`."""
        self._bulk.forget_peer(m.ClosePeer(link))

    def dismiss(self, link: int, reason: str) -> None:
        """Expect nothing more from a link made by `admit`: what waits for it fails at once."""
        if self._sources.pop(link, None) is not None:
            self._bulk.forget_peer(m.DismissPeer(link, reason))

    def check_sources(self) -> None:
        """While an answer stays away: it may wait for a worker that is gone.

        Raises:
            SourceGone: That worker was to send what this session cannot do without, and there may be another one.
        """
        for source in self._lost().values():
            recovery = source.recovery
            if self._recovery is None or recovery is None or not recovery.going_on:
                continue
            if self._recovery.journal.awaits((recovery.journal,)):
                raise SourceGone(f"the daemon at {source.bulk_endpoint} was to send a tensor, and its worker is gone")
        self.dismiss_lost()

    def dismiss_lost(self) -> None:
        """Expect nothing more from workers that are gone."""
        for link, source in self._lost().items():
            self.dismiss(link, f"its session with {source.bulk_endpoint} has ended")

    def _lost(self) -> dict[int, LinkSource]:
        """Return the other ends, by link, that are not where they were."""
        return {
            link: source
            for link, (source, end) in self._sources.items()
            if source.attachment is not end or not end.liveness.alive
        }

    def forget(self) -> None:
        """Forget all links: the worker at this end of them is gone."""
        self._sources.clear()

    def mint_transfer(self) -> int:
        """Return a fresh number for a tensor that another worker sends to this session."""
        self._last_transfer += 1
        return self._last_transfer

    def measure(self, link: int) -> MeasuredLink:
        """Ask this session's worker how fast its link to another worker is.

        Raises:
            DaemonUnavailable: The other worker cannot be reached from there.
        """
        measured = self._bulk.measure_peer(m.MeasurePeer(self._ids.request(), link))
        if measured.problem:
            raise DaemonUnavailable(f"the daemon at {self._bulk.endpoint} reaches no other: {measured.problem}")
        return MeasuredLink(measured.latency_s, measured.bytes_per_s)
