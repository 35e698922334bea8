"""`genie daemon` as one call: serve in this process until a signal or the end of a parent says stop."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from dynamo_genie.child_process import DAEMON_LOG_NAME
from dynamo_genie.remote_daemon.channel.connection_limits import raise_descriptor_limit
from dynamo_genie.remote_daemon.channel.policy import IpcAddress, parse_endpoint
from dynamo_genie.remote_daemon.supervisor.supervisor import Supervisor, SupervisorConfig


def serve(config: SupervisorConfig, *, owns_directory: bool = False) -> int:
    """Serve until SIGTERM or SIGINT; print `ready ENDPOINT` on stdout once clients can be served.

    Args:
        owns_directory: The directory of the ipc endpoint was made for this daemon, so remove it at the end.
    """
    raise_descriptor_limit()
    try:
        with contextlib.closing(Supervisor(config, _print_ready)) as supervisor, _draining_on_signals(supervisor):
            return supervisor.run()
    finally:
        if owns_directory:
            _remove_directory(config.listen)


def _print_ready(endpoint: str) -> None:
    sys.stdout.write(f"ready {endpoint}\n")
    sys.stdout.flush()


@contextlib.contextmanager
def _draining_on_signals(supervisor: Supervisor) -> Iterator[None]:
    def drain(number: int, frame: FrameType | None) -> None:
        supervisor.request_drain()

    before = {number: signal.signal(number, drain) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _remove_directory(listen: str) -> None:
    address = parse_endpoint(listen)
    assert isinstance(address, IpcAddress)
    directory = Path(address.path).parent
    (directory / DAEMON_LOG_NAME).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # whatever somebody else put there is theirs
        os.rmdir(directory)
