from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.remote_daemon.fixtures import DaemonProcess


@pytest.fixture
def start_daemon() -> Iterator[Callable[..., DaemonProcess]]:
    """Start daemons that end with the test."""
    with ExitStack() as stack:

        def start(behaviour: str = "", **arguments: str) -> DaemonProcess:
            daemon = DaemonProcess(behaviour, **arguments)
            stack.callback(daemon.stop)
            return daemon

        yield start
