"""The weights of one tenant in a directory, by content: what a worker was sent once, the next one has.

Safe under a kill at any moment, and with several workers: a file gets its name when it is whole, and who reads one
proves it. What a killed writer left is known by the lock that it no longer holds.
"""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path

import torch

from dynamo_genie.remote_daemon.weight_files.entry import (
    HEADER_NBYTES,
    Allocate,
    BadEntry,
    read_elements,
    read_spec,
    write_entry,
)
from dynamo_genie.runtime.wire.tensor import TensorSpec

logger = logging.getLogger(__name__)

SUFFIX, PART = ".weight", ".part"
FREE_SHARE = 0.5
"""The part of what is free in a file system that a cache without a limit takes."""


class WeightCache:
    """A directory of weights, of at most so many bytes; those that were not used for longest make room."""

    def __init__(self, directory: Path, limit_nbytes: int = 0) -> None:
        """Take a directory that exists, and remove what killed writers left there.

        Args:
            limit_nbytes: 0 for half of what is free there now, beside what the cache has.
        """
        self._directory = directory
        self._count = itertools.count()
        self.limit = limit_nbytes or self.nbytes + int(FREE_SHARE * shutil.disk_usage(directory).free)
        for part in directory.glob(f"*{PART}"):
            _remove_if_left(part)

    @property
    def nbytes(self) -> int:
        """How many bytes the files have."""
        return sum(size for _, size, _ in self._files())

    def describe(self, digest: bytes) -> TensorSpec | None:
        """Return how a weight with this content is described, None where there is none."""
        try:
            with self._open(digest) as file:
                return read_spec(file.fileno())
        except FileNotFoundError:
            return None
        except (OSError, BadEntry) as error:
            self._give_up(digest, error)
            return None

    def read(self, digest: bytes, allocate: Allocate) -> torch.Tensor | None:
        """Return the bytes of a weight (flat, uint8), None where there is none that is whole.

        Raises:
            QuotaExceeded: What `allocate` raises.
        """
        try:
            with self._open(digest) as file:
                memory = read_elements(file.fileno(), read_spec(file.fileno()), digest, allocate)
                os.utime(file.fileno())  # it was used now
                return memory
        except FileNotFoundError:
            return None
        except (OSError, BadEntry) as error:
            self._give_up(digest, error)
            return None

    def write(self, digest: bytes, spec: TensorSpec, memory: torch.Tensor) -> None:
        """Keep a weight, unless it is there or larger than the limit. Where that goes wrong, the log says so."""
        target = self._path(digest)
        nbytes = HEADER_NBYTES + memory.numel()
        if nbytes > self.limit or target.exists():
            return
        part = self._directory / f"{os.getpid()}-{next(self._count)}{PART}"
        try:
            self._make_room(nbytes)
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                write_entry(descriptor, spec, memory)
                os.rename(part, target)
            finally:
                os.close(descriptor)
        except OSError as error:
            logger.warning("a weight of %s bytes could not be kept in %s: %s", nbytes, self._directory, error.strerror)
            with suppress(OSError):
                part.unlink()

    def _make_room(self, nbytes: int) -> None:
        files = sorted(self._files())
        excess = sum(size for _, size, _ in files) + nbytes - self.limit
        for _, size, path in files:
            if excess <= 0:
                return
            with suppress(FileNotFoundError):  # another worker was quicker
                path.unlink()
            excess -= size

    def _files(self) -> list[tuple[float, int, Path]]:
        """Return when each file was last used, its size and its path."""
        found = []
        for path in self._directory.glob(f"*{SUFFIX}"):
            with suppress(FileNotFoundError):
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        return found

    def _path(self, digest: bytes) -> Path:
        return self._directory / f"{digest.hex()}{SUFFIX}"

    def _open(self, digest: bytes):  # type: ignore[no-untyped-def]  # a file for bytes, whatever its class is called
        return open(self._path(digest), "rb", buffering=0)

    def _give_up(self, digest: bytes, error: Exception) -> None:
        """Remove a file that is no good."""
        logger.warning("%s is no weight that can be used, and is removed: %s", self._path(digest), error)
        with suppress(OSError):
            self._path(digest).unlink()


def _remove_if_left(part: Path) -> None:
    """Remove a file that nobody writes any more."""
    with suppress(OSError):  # it is whole now, or gone
        descriptor = os.open(part, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()
        finally:
            os.close(descriptor)
