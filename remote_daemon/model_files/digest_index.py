"""The index of contents: where, among a daemon's model files, the bytes lie that a digest names.

One small file for each safetensors file, in a folder of the directory for models, written by a process of its own and
read by workers. It is bound to the size, the time and the inode of what it was made of, and is no more than a hint:
whoever reads what it points to hashes that.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from dynamo_genie.errors import ModelFileError
from dynamo_genie.remote_daemon.model_files.files import (
    FileIdentity,
    is_unchanged,
    opened,
    read_exactly,
    read_stored_file,
    read_whole,
)
from dynamo_genie.remote_daemon.model_files.header import MAX_TENSORS, StoredTensor
from dynamo_genie.runtime.wire.content import DIGEST_NBYTES, chunk_digest, content_digest
from dynamo_genie.runtime.wire.limits import CHUNK_NBYTES, MAX_STRING

FOLDER = ".genie-index"
SUFFIX, PART = ".digests", ".part"
MAX_INDEX_NBYTES = 4 << 20


class FileDigests(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="genie-digests-1"):
    """The digests of one file's tensors, one after another, in the order of their bytes."""

    path: Annotated[str, msgspec.Meta(max_length=MAX_STRING)]
    identity: FileIdentity
    digests: Annotated[bytes, msgspec.Meta(max_length=DIGEST_NBYTES * MAX_TENSORS)]

    def of_tensors(self) -> list[bytes]:
        """Return them one by one."""
        return [self.digests[i : i + DIGEST_NBYTES] for i in range(0, len(self.digests), DIGEST_NBYTES)]


def digest_file(path: Path) -> FileDigests:
    """Hash every tensor of a safetensors file, in memory of one chunk.

    Raises:
        ModelFileError: It is no such file, or was changed meanwhile.
    """
    with opened(path) as descriptor:
        file = read_stored_file(path, descriptor)
        buffer = memoryview(bytearray(CHUNK_NBYTES))
        digests = b"".join(_digest(descriptor, tensor, buffer) for tensor in file.tensors)
        if FileIdentity.of(descriptor) != file.identity:
            raise ModelFileError(f"{path.name} was changed while it was read")
    return FileDigests(str(path), file.identity, digests)


def _digest(descriptor: int, tensor: StoredTensor, buffer: memoryview) -> bytes:
    digests = bytearray()
    for offset in range(0, tensor.nbytes, CHUNK_NBYTES):
        chunk = buffer[: min(CHUNK_NBYTES, tensor.nbytes - offset)]
        read_exactly(descriptor, chunk, tensor.start + offset)
        digests += chunk_digest(chunk)
    return content_digest(tensor.spec, bytes(digests))


class IndexFolder:
    """A folder of indexes, as its one writer sees it and its readers do."""

    def __init__(self, folder: Path) -> None:
        """Look at a folder, which need not be there."""
        self._folder = folder

    def place_of(self, path: Path) -> Path:
        """Return where the index of a file belongs."""
        return self._folder / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}{SUFFIX}"

    def paths(self) -> list[Path]:
        """Return the indexes there are."""
        return sorted(self._folder.glob(f"*{SUFFIX}"))

    def read(self, place: Path) -> FileDigests | None:
        """Return what an index says; None where it is none."""
        try:
            with opened(place) as descriptor:
                data = read_whole(descriptor, MAX_INDEX_NBYTES, place.name)
            return msgspec.msgpack.decode(data, type=FileDigests)
        except (ModelFileError, msgspec.DecodeError, UnicodeDecodeError):
            return None

    def is_current(self, path: Path) -> bool:
        """Whether there is an index of a file as it is now."""
        known = self.read(self.place_of(path))
        return known is not None and known.path == str(path) and is_unchanged(path, known.identity)

    def write(self, found: FileDigests) -> None:
        """Keep an index; it gets its name when it is whole.

        Raises:
            OSError: It cannot be written.
        """
        place = self.place_of(Path(found.path))
        part = place.with_suffix(PART)
        part.write_bytes(msgspec.msgpack.encode(found))
        part.replace(place)

    def remove_others(self, paths: set[Path]) -> None:
        """Remove the indexes of files that are gone."""
        kept = {self.place_of(path) for path in paths}
        for place in self.paths():
            if place not in kept:
                with suppress(OSError):
                    place.unlink()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a content lies: which of a file's tensors it is, and what the file was then."""

    path: Path
    identity: FileIdentity
    position: int


class KnownContents:
    """Where contents lie, by digest, as far as the indexes tell; these are looked at again when there are new ones."""

    def __init__(self, folders: tuple[Path, ...]) -> None:
        """Read indexes in these folders."""
        self._folders = folders
        self._looked: dict[Path, int] = {}
        self._read: dict[Path, tuple[int, int]] = {}
        self._where: dict[bytes, Place] = {}

    def find(self, digest: bytes) -> Place | None:
        """Return where a content lies; None where no index names it."""
        found = self._where.get(digest)
        if found is not None:
            return found
        for folder in self._folders:
            self._look_into(folder)
        return self._where.get(digest)

    def _look_into(self, folder: Path) -> None:
        """Read the indexes that were written since the last look: each comes into the folder by a new name."""
        try:
            changed = folder.stat().st_mtime_ns
        except OSError:
            return
        if self._looked.get(folder) == changed:
            return
        self._looked[folder] = changed
        indexes = IndexFolder(folder)
        for place in indexes.paths():
            with suppress(OSError):
                status = place.stat()
                stamp = status.st_mtime_ns, status.st_ino
                if self._read.get(place) != stamp:
                    self._read[place] = stamp
                    self._add(indexes.read(place))

    def _add(self, found: FileDigests | None) -> None:
        if found is not None:
            for position, digest in enumerate(found.of_tensors()):
                self._where[digest] = Place(Path(found.path), found.identity, position)
