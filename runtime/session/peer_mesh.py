"""Links between the daemons of this process, opened when first needed: tensors go from one to another directly.

The client mints everything that a link needs, the number of each tensor, a token and a key pair for the link alone,
and tells both ends; no byte of a tensor passes through it.
"""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import dataclass
from urllib.parse import urlsplit

import zmq

from dynamo_genie.errors import OptionError
from dynamo_genie.runtime.attachment.attachment import Attachment
from dynamo_genie.runtime.session.measured_link import MeasuredLink
from dynamo_genie.runtime.session.session import Handle, Session
from dynamo_genie.runtime.wire import messages as m

TOKEN_NBYTES = 32

WAIT_SHARE = 0.9
"""A worker waits a little shorter for a tensor than the client waits for the worker, so that its error gets through."""


@dataclass(frozen=True)
class PeerLink:
    """An open link: its two ends, the number by which each of them knows it, and the workers between which it is.

    Attributes:
        ends: The sessions' attachments: to another worker a session has no link.
    """

    source: Session
    target: Session
    out: int
    into: int
    ends: tuple[Attachment, Attachment]

    @property
    def alive(self) -> bool:
        """Whether both ends are there."""
        return self.survivors() == {self.source, self.target}

    def close_source(self) -> None:
        """Tell the sending end, if it is there, that the link is gone. The caller holds its session's lock."""
        if self.source in self.survivors():
            self.source.links.close(self.out)

    def close_target(self) -> None:
        """Tell the receiving end, if it is there, that the link is gone. The caller holds its session's lock."""
        if self.target in self.survivors():
            self.target.links.dismiss(self.into, "the link was closed")

    def survivors(self) -> set[Session]:
        """Return the ends that are still there."""
        ends = zip((self.source, self.target), self.ends, strict=True)
        return {session for session, end in ends if session.attached and session.attachment is end}


class PeerMesh:
    """The links between sessions. The caller holds the locks of both sessions, and flushes the target.

    The first use of a link costs a round trip to the target, whose worker must know a key before it is used.
    """

    def __init__(self) -> None:
        self._links: dict[tuple[int, int], PeerLink] = {}

    def move(self, handle: Handle, target: Session, kind: str = "") -> Handle:
        """Let the handle's worker send its tensor to `target`'s and return the handle there; waits for nothing.

        Args:
            handle: What to move; it stays where it is, too.
            target: Where to.
            kind: The tensor class under which the daemons count the bytes, if it is not the handle's.

        Raises:
            OptionError: That worker cannot be reached from this one.
        """
        source = handle.session
        link = self.link(source, target)
        transfer = target.links.mint_transfer()
        source.send_tensor(handle.id, link.out, transfer, kind or handle.kind)
        source.flush()  # whatever waits at the target from now on may wait for this
        moved = target.receive_tensor(link.into, transfer, target.timeout_s * WAIT_SHARE)
        moved.kind = kind or handle.kind
        moved.immediate = handle.immediate
        return moved

    def measure(self, source: Session, target: Session) -> MeasuredLink:
        """Find out how fast tensors go from one worker to the other, opening the link.

        Raises:
            DaemonUnavailable: The target cannot be reached from the source's machine.
            OptionError: Its endpoint says so already.
        """
        return source.links.measure(self.link(source, target).out)

    def link(self, source: Session, target: Session) -> PeerLink:
        """Return the open link from one session's worker to another's, opening one where there is none."""
        link = self._links.get((id(source), id(target)))
        if link is not None and link.alive:
            return link
        self._sweep({source, target})
        link = open_link(source, target)
        self._links[id(source), id(target)] = link  # the link keeps both sessions, so their ids stay theirs
        return link

    def close(self) -> None:
        """Close all links; takes the sessions' locks, one after the other."""
        for link in self._links.values():
            with link.source.lock:
                link.close_source()
            with link.target.lock:
                link.close_target()
        self._links.clear()

    def _sweep(self, held: set[Session]) -> None:
        """Close links that have lost an end, so that a survivor keeps nothing of them; `held` are those we may use."""
        for key, link in list(self._links.items()):
            if not link.alive and link.survivors() <= held:
                link.close_source()
                link.close_target()
                del self._links[key]


def open_link(source: Session, target: Session) -> PeerLink:
    """Open a link. Both workers do their part while they compute: the transfer thread of the target answers at once."""
    require_reachable(target.bulk_endpoint, source.bulk_endpoint)
    token = secrets.token_bytes(TOKEN_NBYTES)
    keys = fresh_keys(target.attachment.server_public) if target.attachment.server_public else None
    into = target.links.admit(token, keys.public if keys else "", source)
    out = source.links.open(target.bulk_endpoint, token, keys)
    return PeerLink(source, target, out, into, (source.attachment, target.attachment))


def fresh_keys(server_public: str) -> m.PeerKeys:
    """Make a key pair for one link, so that no lasting secret leaves this process."""
    public, secret = zmq.curve_keypair()
    return m.PeerKeys(server_public, public.decode(), secret.decode())


def require_reachable(endpoint: str, source: str) -> None:
    """Refuse a link to an endpoint that only this machine can reach, from a daemon that may be on another."""
    if is_local(endpoint) and not is_local(source):
        raise OptionError(
            f"the daemon at {source} cannot reach the one at {endpoint}, an address of this machine only; "
            "name both daemons by addresses that their machines can reach (daemons, GENIE_DAEMONS)"
        )


def is_local(endpoint: str) -> bool:
    """Whether an endpoint can be reached from its own machine only."""
    if not endpoint.startswith("tcp://"):
        return True
    host = urlsplit(endpoint).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
