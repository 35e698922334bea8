"""One safetensors file on this machine: opened, known by its identity, read with a limit. Knows nothing of torch.

Files are read, never mapped: who cuts a mapped file ends everybody who looks at it with SIGBUS; here that is an error.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from dynamo_genie.errors import ModelFileError
from dynamo_genie.remote_daemon.model_files.header import LENGTH_NBYTES, StoredTensor, header_nbytes, parse_header

V = TypeVar("V")


class FileIdentity(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What tells a file from the one that stood in its place before."""

    nbytes: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, descriptor: int) -> FileIdentity:
        """Return the identity of an open file."""
        status = os.fstat(descriptor)
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A safetensors file whose header was read: its tensors in the order of their bytes."""

    path: Path
    identity: FileIdentity
    tensors: tuple[StoredTensor, ...]


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Give a descriptor of a regular file, which is no link.

    Raises:
        ModelFileError: It is not there, is none, or may not be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise ModelFileError(f"{path.name} cannot be read: {error.strerror}") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ModelFileError(f"{path.name} is no file")
        yield descriptor
    finally:
        os.close(descriptor)


def is_unchanged(path: Path, identity: FileIdentity) -> bool:
    """Whether a file is there and is the one that it was."""
    try:
        with opened(path) as descriptor:
            return FileIdentity.of(descriptor) == identity
    except ModelFileError:
        return False


def read_exactly(descriptor: int, view: memoryview, offset: int) -> None:
    """Fill memory from a place in a file.

    Raises:
        ModelFileError: The file ends before that, or the disk fails.
    """
    done = 0
    while done < view.nbytes:
        try:
            count = os.preadv(descriptor, [view[done:]], offset + done)
        except OSError as error:
            raise ModelFileError(f"a file of the model cannot be read: {error.strerror}") from None
        if not count:
            raise ModelFileError("a file of the model became shorter while it was read")
        done += count


def read_whole(descriptor: int, limit: int, what: str) -> bytes:
    """Return all of a small file.

    Raises:
        ModelFileError: It is larger than `limit`.
    """
    nbytes = os.fstat(descriptor).st_size
    if nbytes > limit:
        raise ModelFileError(f"{what} has {nbytes:,} bytes; at most {limit:,} are read")
    data = bytearray(nbytes)
    read_exactly(descriptor, memoryview(data), 0)
    return bytes(data)


def read_stored_file(path: Path, descriptor: int) -> StoredFile:
    """Read the header of an open file.

    Raises:
        ModelFileError: It is no safetensors file.
    """
    identity = FileIdentity.of(descriptor)
    try:
        first = bytearray(min(LENGTH_NBYTES, identity.nbytes))
        read_exactly(descriptor, memoryview(first), 0)
        header = bytearray(header_nbytes(bytes(first), identity.nbytes))
        read_exactly(descriptor, memoryview(header), LENGTH_NBYTES)
        return StoredFile(path, identity, parse_header(bytes(header), identity.nbytes))
    except ModelFileError as error:
        raise ModelFileError(f"{path.name} is no safetensors file that can be read: {error}") from None


class KnownFiles(Generic[V]):
    """What was read of files, kept until they change: of those that were read last, with so many tensors together."""

    def __init__(self, read: Callable[[Path, int], V], tensors: Callable[[V], int], limit: int) -> None:
        """Keep what `read` returns for a path and a descriptor, up to `limit` tensors, which `tensors` counts."""
        self._read = read
        self._tensors = tensors
        self._limit = limit
        self._kept = 0
        self._known: dict[Path, tuple[FileIdentity, V]] = {}

    def get(self, path: Path) -> V:
        """Return what a file says now.

        Raises:
            ModelFileError: It cannot be read, or is not what it should be.
        """
        with opened(path) as descriptor:
            identity = FileIdentity.of(descriptor)
            known = self._forget(path)
            if known is None or known[0] != identity:
                known = identity, self._read(path, descriptor)
            self._known[path] = known
            self._kept += 1 + self._tensors(known[1])
            while self._kept > self._limit and len(self._known) > 1:
                self._forget(next(iter(self._known)))
            return known[1]

    def _forget(self, path: Path) -> tuple[FileIdentity, V] | None:
        known = self._known.pop(path, None)
        if known is not None:
            self._kept -= 1 + self._tensors(known[1])
        return known
