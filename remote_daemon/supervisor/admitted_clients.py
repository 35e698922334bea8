"""The admitted clients, kept in memory and brought up to date from the folder of their public keys as it changes.

A handshake costs no look into a file, and a folder that cannot be read for a while (no descriptor left, a disk gone)
locks nobody out who was admitted before: only a file that is really gone does that.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import msgspec

from dynamo_genie.runtime.wire.key_file import MAX_KEY_FILE_NBYTES, PublicKey

logger = logging.getLogger(__name__)

Stamp: TypeAlias = tuple[int, int, int]
"""Inode, size and time of change: a file with the same stamp holds the same key."""


class AdmittedClients:
    """The public keys that may connect, and the names of their clients. Any thread may ask."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._stamp: Stamp | None = None
        self._files: dict[str, tuple[Stamp, str]] = {}  # file name -> stamp and key, empty where it holds none
        self._names: Mapping[str, str] = {}
        self._problem = ""
        self.refresh()

    def names(self) -> Mapping[str, str]:
        """Return public key to name, having looked whether files came or went since the last time."""
        with self._lock:
            try:
                changed = _stamp(self._folder) != self._stamp
            except OSError as error:
                self._tell(f"cannot read {self._folder}: {error.strerror}; those admitted before stay so")
                return self._names
        return self.refresh() if changed else self._names

    def refresh(self) -> Mapping[str, str]:
        """Return public key to name, having looked at each file: one may be written over in place."""
        with self._lock:
            try:
                self._tell(self._read())
            except OSError as error:
                self._tell(f"cannot read {self._folder}: {error.strerror}; those admitted before stay so")
            return self._names

    def _read(self) -> str:
        """Bring keys and names up to date; return what is wrong with a file, if anything is."""
        stamp = _stamp(self._folder)  # before the files, so that what comes meanwhile is seen the next time
        with os.scandir(self._folder) as entries:
            names = [entry.name for entry in entries if entry.name.endswith(".pub")]
        files: dict[str, tuple[Stamp, str]] = {}
        problem = ""
        for name in sorted(names):
            known = self._files.get(name)
            try:
                files[name] = self._look(self._folder / name, known)
            except FileNotFoundError:
                pass  # deleted while we looked
            except OSError as error:
                problem = f"cannot read {self._folder / name}: {error.strerror}"
                if known is not None:
                    files[name] = known
        if files != self._files:
            self._names = {key: name.removesuffix(".pub") for name, (_, key) in files.items() if key}
        self._stamp, self._files = stamp, files
        return problem

    def _look(self, path: Path, known: tuple[Stamp, str] | None) -> tuple[Stamp, str]:
        stamp = _stamp(path)
        return known if known is not None and known[0] == stamp else (stamp, _key_of(path))

    def _tell(self, problem: str) -> None:
        if problem and problem != self._problem:
            logger.error("%s", problem)
        self._problem = problem


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _key_of(path: Path) -> str:
    """Return the key in a file, empty where it holds none; raises `OSError` where it cannot be read now."""
    with path.open("rb") as file:
        data = file.read(MAX_KEY_FILE_NBYTES + 1)
    try:
        return msgspec.json.decode(data, type=PublicKey).public
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        logger.warning("a client is left out: %s holds no public key: %s (made by: genie keygen)", path, error)
        return ""
