"""`genie keygen`: make the keys of a daemon, and of the clients that it admits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dynamo_genie.errors import OptionError
from dynamo_genie.remote_daemon.supervisor.keys import create_client_keys, create_server_keys


def keygen(
    directory: Annotated[Path, typer.Argument(help="Where the daemon's keys are kept")],
    client: Annotated[list[str] | None, typer.Option(help="Name of a client to admit; repeat for more")] = None,
) -> None:
    """Make a daemon's keys in DIRECTORY and a key file for each client (by default one, called `client`)."""
    try:
        _make(directory, client or [])
    except OSError as error:
        raise OptionError(f"cannot keep keys in {directory}: {error.strerror or error}") from None


def _make(directory: Path, names: list[str]) -> None:
    known = (directory / "server.key").exists()
    server = create_server_keys(directory)
    admitted = sorted(server.clients().values())
    if known:
        print(f"{directory} has a daemon's keys already; they stay. Clients admitted: {', '.join(admitted) or 'none'}")
    if not names and admitted:
        print(f"nothing to make; admit another client with: genie keygen {directory} --client NAME")
    for name in names or ([] if admitted else ["client"]):
        path = create_client_keys(server, name)
        print(f"key file for {name}: {path}  (GENIE_KEY_FILE={path})")
    print(f"start the daemon with: genie daemon --listen tcp://0.0.0.0:7777 --keys {directory}")
