"""The client's keys: one file that proves who it is and names the daemon that it trusts."""

from __future__ import annotations

import os
from pathlib import Path

import zmq

from dynamo_genie.errors import AuthenticationError
from dynamo_genie.runtime.wire.key_file import ClientKeys, read_key_file

__all__ = ["ClientKeys", "load_client_keys"]


def load_client_keys(path: str | os.PathLike[str]) -> ClientKeys:
    """Load the client key file made by `genie keygen`; a broken one is an `AuthenticationError`."""
    keys = read_key_file(Path(path).expanduser(), ClientKeys)
    if zmq.curve_public(keys.secret.encode()) != keys.public.encode():
        raise AuthenticationError(f"the key file {path} is damaged: its secret and public key do not belong together")
    return keys
