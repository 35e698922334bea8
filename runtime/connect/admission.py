"""How a client gets in and stays in: one Hello, then a lease kept alive in the background. Knows nothing of tensors."""

from __future__ import annotations

import os
import platform
import socket
import weakref
from contextlib import closing
from types import TracebackType

import msgspec

from dynamo_genie.runtime.connect.dealer import reached_through
from dynamo_genie.runtime.connect.lease_keeper import LeaseKeeper, OnLost, OnSilence, ignore_silence
from dynamo_genie.runtime.connect.supervisor_connection import SupervisorConnection
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.key_file import ClientKeys
from dynamo_genie.runtime.wire.version import PROTOCOLS

_REQUEST = 1


class Admission:
    """A session's right to exist: `welcome` says where the worker is; ends with `close` or at interpreter exit.

    In a forked child it is inert: the session belongs to the parent.
    """

    def __init__(self, welcome: m.Welcome, keeper: LeaseKeeper) -> None:
        self.welcome = welcome
        self._finalizer = weakref.finalize(self, keeper.close)

    @classmethod
    def open(
        cls,
        endpoint: str,
        device: int = 0,
        *,
        keys: ClientKeys | None,
        connect_timeout_s: float,
        on_lost: OnLost,
        on_silence: OnSilence = ignore_silence,
    ) -> Admission:
        """Ask the daemon at `endpoint` for a session.

        Args:
            endpoint: The daemon's public endpoint.
            device: Which of its devices, counted from 0.
            keys: The client's keys; None for a daemon without keys.
            connect_timeout_s: How long to wait for the answer, a worker that is still starting included.
            on_lost: Called once, from a background thread, if the session ends before `close`.
            on_silence: Called from that thread now and then while the daemon does not answer.

        Raises:
            DaemonUnavailable: Nobody answered in time, or the daemon is shutting down.
            AuthenticationError: The daemon does not admit this key, or wants one.
            VersionMismatch: The two sides share no protocol version.
            QuotaExceeded: Too many sessions are open.
            OptionError: The daemon has no such device.
        """
        connection = SupervisorConnection(endpoint, keys)
        try:
            hello: m.Hello | m.OpenDevice = m.Hello(_REQUEST, PROTOCOLS, describe_client())
            if device:
                hello = m.OpenDevice(_REQUEST, PROTOCOLS, describe_client(), device)
            welcome = connection.ask(hello, m.Welcome, connect_timeout_s)
            keeper = LeaseKeeper(connection, welcome, on_lost, on_silence)
        except BaseException:
            connection.close(linger_ms=0)
            raise
        return cls(_dialable(welcome, endpoint), keeper)

    def close(self) -> None:
        """End the session in good order; again does nothing."""
        self._finalizer()

    def __enter__(self) -> Admission:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def request_status(endpoint: str, keys: ClientKeys | None, timeout_s: float) -> m.DaemonStatus:
    """Ask a daemon how it is; needs no session."""
    with closing(SupervisorConnection(endpoint, keys)) as connection:
        return connection.ask(m.StatusRequest(_REQUEST), m.StatusReply, timeout_s).status


def describe_client() -> str:
    """Return who we are, for people who look at `genie status`."""
    return f"{socket.gethostname()}:{os.getpid()} python {platform.python_version()}"


def _dialable(welcome: m.Welcome, dialled: str) -> m.Welcome:
    control, bulk = reached_through(welcome.control, dialled), reached_through(welcome.bulk, dialled)
    return msgspec.structs.replace(welcome, control=control, bulk=bulk)
