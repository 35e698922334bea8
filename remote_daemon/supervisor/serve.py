"""`genie daemon` as one call: serve in this process until a signal or the end of a parent says stop."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType

from dynamo_genie.child_process import DAEMON_LOG_NAME
from dynamo_genie.remote_daemon.channel.connection_limits import raise_descriptor_limit
from dynamo_genie.remote_daemon.channel.policy import IpcAddress, parse_endpoint
from dynamo_genie.remote_daemon.sandbox.privileges import hide_memory
from dynamo_genie.remote_daemon.supervisor.config import SupervisorConfig
from dynamo_genie.remote_daemon.supervisor.keeper import Keeper
from dynamo_genie.remote_daemon.supervisor.supervisor import Supervisor


def serve_kept(config: SupervisorConfig) -> int:
    """Serve as `serve` does, in a process of its own that is started again when it dies."""
    return Keeper(lambda listen, announce: serve(replace(config, listen=listen), announce), config.listen).run()


def serve(
    config: SupervisorConfig, announce: Callable[[str], None] | None = None, *, owns_directory: bool = False
) -> int:
    """Serve until SIGTERM or SIGINT; print `ready ENDPOINT` on stdout once clients can be served.

    Args:
        announce: Called with the endpoint instead of printing it.
        owns_directory: The directory of the ipc endpoint was made for this daemon, so remove it at the end.
    """
    if config.keys is not None and not config.sandbox.walls:
        hide_memory()  # the secret key is in it
    raise_descriptor_limit()
    try:
        with (
            contextlib.closing(Supervisor(config, announce or _print_ready)) as supervisor,
            _draining_on_signals(supervisor),
        ):
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
