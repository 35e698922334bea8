"""Tests about values need no process of the daemon's: they run against a worker's session in this one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.in_process import connections_in_process
from tests.integration.conftest import BACKEND_NAME


@pytest.fixture(scope="module", autouse=True)
def in_process(request: pytest.FixtureRequest) -> Iterator[None]:
    """Join client and worker, except for a module that says `NEEDS_A_DAEMON`."""
    if BACKEND_NAME != "genie" or getattr(request.module, "NEEDS_A_DAEMON", False):
        yield
        return
    with connections_in_process():
        yield
