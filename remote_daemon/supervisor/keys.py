"""The daemon's keys: a directory with the daemon's own pair and the public key of each client it admits.

DIR/server.key          the daemon's pair, mode 0600
DIR/server.pub          its public key
DIR/clients/NAME.pub    one admitted client a file; delete the file to lock the client out
DIR/NAME.key            what to hand to that client (`key_file`), mode 0600; the daemon does not need it
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import zmq

from dynamo_genie.errors import AuthenticationError
from dynamo_genie.remote_daemon.supervisor.admitted_clients import AdmittedClients
from dynamo_genie.runtime.wire.key_file import ClientKeys, PublicKey, ServerKeyPair, read_key_file, write_key_file

CLIENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class ServerKeys:
    """The daemon's own pair and where the admitted clients are listed."""

    pair: ServerKeyPair
    directory: Path

    @property
    def clients_folder(self) -> Path:
        """Return where the public keys of the admitted clients are."""
        return self.directory / "clients"

    def clients(self) -> Mapping[str, str]:
        """Return the admitted clients now, as public key to name; a file that holds no key admits nobody."""
        return AdmittedClients(self.clients_folder).names()


def load_server_keys(directory: str | os.PathLike[str]) -> ServerKeys:
    """Load the daemon's pair from a directory made by `genie keygen`."""
    root = Path(directory).expanduser()
    if not (root / "server.key").exists():
        raise AuthenticationError(f"no server.key in {root}; make one with: genie keygen {root}")
    pair = read_key_file(root / "server.key", ServerKeyPair)
    if zmq.curve_public(pair.secret.encode()) != pair.public.encode():
        raise AuthenticationError(f"{root / 'server.key'} is damaged: its secret and public key do not belong together")
    keys = ServerKeys(pair, root)
    if not keys.clients():
        raise AuthenticationError(f"{root / 'clients'} admits nobody; add one: genie keygen {root} --client NAME")
    return keys


def create_server_keys(directory: Path) -> ServerKeys:
    """Make a new pair for a daemon in `directory`, or return the one that is there."""
    (directory / "clients").mkdir(parents=True, exist_ok=True, mode=0o700)
    if not (directory / "server.key").exists():
        pair = fresh_pair()
        write_key_file(directory / "server.key", pair)
        write_key_file(directory / "server.pub", PublicKey(pair.public))
    return ServerKeys(read_key_file(directory / "server.key", ServerKeyPair), directory)


def create_client_keys(server: ServerKeys, name: str) -> Path:
    """Admit a new client and return the path of the key file to hand to it."""
    if not CLIENT_NAME.fullmatch(name) or name == "server":
        allowed = "letters, digits, '.', '_', '-', at most 64, not 'server'"
        raise AuthenticationError(f"{name!r} is no client name; allowed: {allowed}")
    path = server.directory / f"{name}.key"
    admitted = server.directory / "clients" / f"{name}.pub"
    for file in (path, admitted):
        if file.exists():
            raise AuthenticationError(f"client {name!r} has a key already: {file}")
    public, secret = _new_pair()
    write_key_file(path, ClientKeys(public, secret, server.pair.public))
    write_key_file(admitted, PublicKey(public))
    return path


def fresh_pair() -> ServerKeyPair:
    """Make a pair for the sockets of one worker, which need not know the daemon's."""
    return ServerKeyPair(*_new_pair())


def short_form(public_key: str, names: Mapping[str, str]) -> str:
    """Name a tenant for people: the client's name where it is known, and the start of its key."""
    start = public_key[:8]
    return f"{names[public_key]}:{start}" if public_key in names else start


def _new_pair() -> tuple[str, str]:
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()
