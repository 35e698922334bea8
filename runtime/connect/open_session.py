"""Opens a session: admitted by a daemon, attached to the worker that the daemon names."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import zmq

from dynamo_genie.errors import ProtocolError
from dynamo_genie.runtime.attachment.attachment import Attachment
from dynamo_genie.runtime.attachment.liveness import Liveness
from dynamo_genie.runtime.connect.admission import Admission
from dynamo_genie.runtime.connect.dealer import Dealer, DealerTransport, connect_dealer, reached_through, split_device
from dynamo_genie.runtime.session.session import Session
from dynamo_genie.runtime.wire.key_file import ClientKeys
from dynamo_genie.runtime.wire.limits import MAX_BULK_FRAME_NBYTES, MAX_CONTROL_NBYTES
from dynamo_genie.runtime.wire.messages import Welcome

POLL_MS = 20
"""How long one receive blocks before the session looks whether it was lost or its time is over."""

BULK_HIGH_WATER = 32


def open_session(
    context: zmq.Context[Dealer],
    endpoint: str,
    *,
    keys: ClientKeys | None,
    connect_timeout_s: float,
    request_timeout_s: float,
    find_again: Callable[[], str] | None = None,
) -> Session:
    """Be admitted by the daemon at `endpoint` and attach to the worker it names.

    Args:
        endpoint: The daemon's public endpoint; `ENDPOINT#N` for its device N, counted from 0.
        keys: The client's keys, where the daemon wants some.
        connect_timeout_s: How long to wait to be let in.
        request_timeout_s: How long to wait for an answer from then on.
        find_again: Says where a daemon is when the worker is gone; None ends the session with it.

    Raises:
        DaemonUnavailable: Nobody answered within `connect_timeout_s`.
        AuthenticationError, VersionMismatch, QuotaExceeded: The daemon refused.
    """
    attachment = open_attachment(context, endpoint, keys=keys, connect_timeout_s=connect_timeout_s)

    def reopen() -> Attachment:
        assert find_again is not None
        return open_attachment(context, find_again(), keys=keys, connect_timeout_s=connect_timeout_s)

    session = Session(
        attachment, request_timeout_s, reopen=reopen if find_again else None, patience_s=connect_timeout_s
    )
    try:
        session.attach(connect_timeout_s)
    except BaseException:
        session.close()
        raise
    return session


def open_attachment(
    context: zmq.Context[Dealer], endpoint: str, *, keys: ClientKeys | None, connect_timeout_s: float
) -> Attachment:
    """Be admitted by the daemon at `endpoint` and connect to the worker it names; raises what `open_session` does."""
    endpoint, device = split_device(endpoint)
    liveness = Liveness()
    admission = Admission.open(
        endpoint,
        device,
        keys=keys,
        connect_timeout_s=connect_timeout_s,
        on_lost=liveness.end,
        on_silence=liveness.doubt,
    )
    welcome = admission.welcome
    worker_keys = keys_for_worker(keys, welcome)

    def transport(worker: str, max_frame_nbytes: int, high_water: int) -> DealerTransport:
        settings = {"max_frame_nbytes": max_frame_nbytes, "high_water": high_water, "timeout_ms": POLL_MS}

        def dealer(before_connect: Callable[[Dealer], None]) -> Dealer:
            reached = reached_through(worker, endpoint)
            return connect_dealer(context, reached, keys=worker_keys, before_connect=before_connect, **settings)

        return DealerTransport(dealer, liveness)

    control = transport(welcome.control, MAX_CONTROL_NBYTES, 1_000)
    bulk = transport(welcome.bulk, MAX_BULK_FRAME_NBYTES, BULK_HIGH_WATER)

    def release() -> None:
        admission.close()
        control.close()
        bulk.close()

    return Attachment(welcome, control, bulk, liveness, release, welcome.worker_key)


def keys_for_worker(keys: ClientKeys | None, welcome: Welcome) -> ClientKeys | None:
    """Return a client's keys with the key of its worker, which the daemon vouches for, in place of the daemon's."""
    if keys is None:
        return None
    if not welcome.worker_key:
        raise ProtocolError("the daemon named no key for its worker, so nobody could tell who answers there")
    return msgspec.structs.replace(keys, server_public=welcome.worker_key)
