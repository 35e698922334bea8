"""A worker's session: every command that a client may send is one that it runs."""

from __future__ import annotations

from typing import get_args

from dynamo_genie.runtime.wire import messages as m
from tests.remote_daemon.worker_in_process import WorkerInProcess


def test_every_command_of_the_wire_has_a_row() -> None:
    session = WorkerInProcess().session
    assert sorted(session.commands, key=str) == sorted(get_args(m.Command), key=str)
