"""The text form of key files, declared once for the side that writes them and the side that reads them.

A key file is a small JSON object; `kind` says which of the records below it holds. Keys are CURVE keys in Z85.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Annotated, TypeAlias, TypeVar

import msgspec

from dynamo_genie.errors import AuthenticationError

MAX_KEY_FILE_NBYTES = 4096

Z85Key: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}$")]


class _KeyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """Base: one JSON object with a `kind`."""


class PublicKey(_KeyFile, frozen=True, tag="genie-public-key"):
    """What may be shown to anybody: one side's public key."""

    public: Z85Key


class ServerKeyPair(_KeyFile, frozen=True, tag="genie-server-key"):
    """The daemon's own pair."""

    public: Z85Key
    secret: Z85Key

    def __repr__(self) -> str:
        return f"ServerKeyPair(public={self.public!r}, secret=...)"


class ClientKeys(_KeyFile, frozen=True, tag="genie-client-key"):
    """All that a client needs: its own pair, and the public key by which it knows the daemon."""

    public: Z85Key
    secret: Z85Key
    server_public: Z85Key

    def __repr__(self) -> str:
        return f"ClientKeys(public={self.public!r}, secret=..., server_public={self.server_public!r})"


K = TypeVar("K", PublicKey, ServerKeyPair, ClientKeys)


def read_key_file(path: Path, kind: type[K]) -> K:
    """Read the key record of type `kind` at `path`, or raise `AuthenticationError` naming what is wrong."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(MAX_KEY_FILE_NBYTES + 1)
    except OSError as error:
        raise AuthenticationError(f"cannot read the key file {path}: {error.strerror}") from None
    if "secret" in kind.__struct_fields__ and mode & 0o077:
        raise AuthenticationError(f"the key file {path} can be read by others (mode {mode:04o}): chmod 600 {path}")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        wanted = kind.__struct_config__.tag
        raise AuthenticationError(f"{path} is not a {wanted} file: {error} (made by: genie keygen)") from None


def write_key_file(path: Path, record: PublicKey | ServerKeyPair | ClientKeys) -> None:
    """Write `record` to a new file that only its owner can read; an existing file is never overwritten."""
    mode = 0o644 if isinstance(record, PublicKey) else 0o600
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")  # a daemon may read the directory at any time
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
        os.link(unfinished, path)
    finally:
        os.unlink(unfinished)
