from __future__ import annotations

import stat
from pathlib import Path

import pytest

from dynamo_genie.errors import AuthenticationError
from dynamo_genie.remote_daemon.supervisor.keys import (
    create_client_keys,
    create_server_keys,
    load_server_keys,
    short_form,
)
from dynamo_genie.runtime.connect.keys import load_client_keys


def test_a_client_file_holds_all_that_a_client_needs(tmp_path: Path) -> None:
    path = create_client_keys(create_server_keys(tmp_path), "alice")
    server, client = load_server_keys(tmp_path), load_client_keys(path)
    assert client.server_public == server.pair.public
    assert server.clients() == {client.public: "alice"}
    assert short_form(client.public, server.clients()) == f"alice:{client.public[:8]}"


def test_secrets_are_readable_by_their_owner_only_and_stay_out_of_repr(tmp_path: Path) -> None:
    path = create_client_keys(create_server_keys(tmp_path), "alice")
    for file in (path, tmp_path / "server.key"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert load_client_keys(path).secret not in repr(load_client_keys(path))
    assert load_server_keys(tmp_path).pair.secret not in repr(load_server_keys(tmp_path))


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = create_client_keys(create_server_keys(tmp_path), "alice")
    path.chmod(0o644)
    with pytest.raises(AuthenticationError, match="chmod 600"):
        load_client_keys(path)


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    server = create_server_keys(tmp_path)
    assert create_server_keys(tmp_path) == server
    create_client_keys(server, "alice")
    with pytest.raises(AuthenticationError, match="has a key already"):
        create_client_keys(server, "alice")


@pytest.mark.parametrize("name", ["", "../evil", "a/b", "server", ".hidden", "x" * 65])
def test_client_names_cannot_leave_the_directory(tmp_path: Path, name: str) -> None:
    with pytest.raises(AuthenticationError):
        create_client_keys(create_server_keys(tmp_path), name)


def test_a_deleted_client_is_admitted_no_more(tmp_path: Path) -> None:
    server = create_server_keys(tmp_path)
    create_client_keys(server, "alice")
    (tmp_path / "clients" / "alice.pub").unlink()
    assert server.clients() == {}
    with pytest.raises(AuthenticationError, match="admits nobody"):
        load_server_keys(tmp_path)


@pytest.mark.parametrize("text", ["", "{}", "not json", '{"kind":"genie-client-key","public":"short"}', "[" * 4000])
def test_a_broken_key_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(AuthenticationError, match=r"broken\.key"):
        load_client_keys(path)


def test_a_missing_file_and_a_mixed_pair_are_named(tmp_path: Path) -> None:
    with pytest.raises(AuthenticationError, match="No such file"):
        load_client_keys(tmp_path / "none.key")
    server = create_server_keys(tmp_path)
    first, second = (create_client_keys(server, name) for name in "ab")
    secret, other = load_client_keys(first).secret, load_client_keys(second).secret
    first.write_text(first.read_text().replace(secret, other))
    with pytest.raises(AuthenticationError, match="damaged"):
        load_client_keys(first)


def test_a_client_file_without_a_key_admits_nobody_and_harms_nobody(tmp_path: Path) -> None:
    server = create_server_keys(tmp_path)
    path = create_client_keys(server, "alice")
    (tmp_path / "clients" / "broken.pub").write_text("")
    assert server.clients() == {load_client_keys(path).public: "alice"}
