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
from msgspec.structs import replace

from dynamo_genie.errors import DaemonUnavailable, OptionError
from dynamo_genie.runtime.attachment.attachment import Attachment
from dynamo_genie.runtime.recovery.together import Together
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
        self._together = Together(self._send_again)

    def move(self, handle: Handle, target: Session, kind: str = "") -> Handle:
        """Let the handle's worker send its tensor to `target`'s and return the handle there; waits for nothing.

        Args:
            handle: What to move; it stays where it is, too.
            target: Where to.
            kind: The tensor class under which the daemons count the bytes, if it is not the handle's.

        Raises:
            OptionError: That worker cannot be reached from this one.
        """
        source, kind = handle.session, kind or handle.kind
        while True:
            link = self.link(source, target)
            transfer = target.links.mint_transfer()
            sending = source.send_tensor(handle.id, link.out, transfer, kind)
            source.flush()  # whatever waits at the target from now on may wait for this
            if link.alive:  # else it is not on its way
                break
        moved = target.receive_tensor(link.into, transfer, target.timeout_s * WAIT_SHARE, sending)
        moved.kind = kind
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
        for session in (source, target):
            session.recover_with(self._together)
        link = self._open(source, target)
        self._links[id(source), id(target)] = link  # the link keeps both sessions, so their ids stay theirs
        return link

    def _open(self, source: Session, target: Session) -> PeerLink:
        while True:
            for session in (source, target):
                session.revive()
            self._sweep({source, target})
            try:
                return open_link(source, target)
            except DaemonUnavailable:
                if source.attached and target.attached:
                    raise

    def _send_again(
        self, source: Session, send: m.SendTensor, target: Session, receive: m.ReceiveTensor
    ) -> m.ReceiveTensor:
        """Tell one session's new worker to send what the last one sent; return what the other's is to be told."""
        link, transfer = self.link(source, target), target.links.mint_transfer()
        source.retelling.repeat(replace(send, link=link.out, transfer=transfer))
        source.retelling.flush()
        return replace(receive, link=link.into, transfer=transfer, timeout_s=target.timeout_s * WAIT_SHARE)

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
