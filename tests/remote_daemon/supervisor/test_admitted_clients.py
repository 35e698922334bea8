"""Keys are read when they change and kept when they cannot be read."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dynamo_genie.remote_daemon.supervisor import admitted_clients
from dynamo_genie.remote_daemon.supervisor.admitted_clients import AdmittedClients
from dynamo_genie.remote_daemon.supervisor.keys import create_client_keys, create_server_keys
from dynamo_genie.runtime.connect.keys import load_client_keys


@pytest.fixture
def admit(tmp_path: Path) -> Callable[[str], str]:
    """Admit a client and return its public key."""
    server = create_server_keys(tmp_path)
    return lambda name: load_client_keys(create_client_keys(server, name)).public


def test_who_comes_is_seen_at_once_and_who_goes_too(tmp_path: Path, admit: Callable[[str], str]) -> None:
    alice = admit("alice")
    clients = AdmittedClients(tmp_path / "clients")
    assert clients.names() == {alice: "alice"}
    bob = admit("bob")
    assert clients.names() == {alice: "alice", bob: "bob"}
    (tmp_path / "clients" / "alice.pub").unlink()
    assert clients.names() == {bob: "bob"}


def test_a_file_that_was_written_over_is_seen_by_refresh(tmp_path: Path, admit: Callable[[str], str]) -> None:
    alice, bob = admit("alice"), admit("bob")
    clients = AdmittedClients(tmp_path / "clients")
    file = tmp_path / "clients" / "bob.pub"
    file.write_text("no key any more")
    assert clients.refresh() == {alice: "alice"}
    assert bob not in clients.names()


def test_no_file_is_read_twice_while_nothing_changes(
    tmp_path: Path, admit: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = admit("alice")
    clients = AdmittedClients(tmp_path / "clients")
    monkeypatch.setattr(Path, "open", _no_descriptors)
    for _ in range(3):
        assert clients.names() == clients.refresh() == {alice: "alice"}


@pytest.mark.parametrize("broken", ["scandir", "open", "gone"])
def test_what_cannot_be_read_now_locks_nobody_out_and_is_said_once(
    tmp_path: Path,
    admit: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    broken: str,
) -> None:
    alice = admit("alice")
    clients = AdmittedClients(tmp_path / "clients")
    bob = admit("bob")
    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        if broken == "scandir":
            patch.setattr(admitted_clients.os, "scandir", _no_descriptors)
        elif broken == "open":
            patch.setattr(Path, "open", _no_descriptors)
        else:
            (tmp_path / "clients").rename(tmp_path / "moved")
        for _ in range(3):
            assert clients.names() == clients.refresh() == {alice: "alice"}
    assert len(caplog.records) == 1, caplog.text
    if broken == "gone":
        (tmp_path / "moved").rename(tmp_path / "clients")
    assert clients.refresh() == {alice: "alice", bob: "bob"}


def _no_descriptors(*_: Any, **__: Any) -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
