"""The catalogue of a daemon's models: what lies below its directories, by name. Nothing outside them can be named.

A model is a folder with `model.safetensors.index.json` and the shards that it names, a folder with one
`model.safetensors`, or a single file. Its name is its path below the directory; "." is the directory itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec

from dynamo_genie.errors import ModelFileError
from dynamo_genie.remote_daemon.model_files.files import (
    FileIdentity,
    KnownFiles,
    StoredFile,
    is_unchanged,
    read_stored_file,
    read_whole,
)
from dynamo_genie.remote_daemon.model_files.header import (
    StoredTensor,
    decode_json,
    require_distinct_keys,
    require_name,
)

INDEX_NAME, WHOLE_NAME, SUFFIX = "model.safetensors.index.json", "model.safetensors", ".safetensors"
MAX_INDEX_NBYTES = 32 << 20
MAX_MODEL_TENSORS = 262_144
MAX_FOLDERS = 10_000
"""So many folders are looked into for the list of models."""

MAX_KNOWN_TENSORS = 131_072
"""So many are remembered, some 50 MB; a model with more is read again whenever it is asked for."""


class _WeightMap(msgspec.Struct, frozen=True):
    weight_map: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Index:
    """An index of shards: the shard of each tensor. What else stands in it means nothing here."""

    path: Path
    identity: FileIdentity
    shards: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class OfferedModel:
    """A model: its files, and for each tensor the file and the place in it; of shards, the index that names them."""

    name: str
    files: tuple[StoredFile, ...]
    tensors: Mapping[str, tuple[StoredFile, StoredTensor]]
    index: _Index | None = None

    def is_current(self, tensor: str) -> bool:
        """Whether the files that say where a tensor lies are those that were read."""
        found = self.tensors.get(tensor)
        read = [] if found is None else [(found[0].path, found[0].identity)]
        if self.index is not None:
            read.append((self.index.path, self.index.identity))
        return bool(read) and all(is_unchanged(path, identity) for path, identity in read)


class Catalogue:
    """The models below some directories; where two have one name, that of the first directory counts."""

    def __init__(self, directories: Sequence[Path]) -> None:
        """Offer what lies below these, which need not be there yet."""
        self._roots = tuple(Path(os.path.realpath(directory)) for directory in directories)
        self._stored = KnownFiles(read_stored_file, lambda file: len(file.tensors), MAX_KNOWN_TENSORS)
        self._indexes = KnownFiles(_read_index, lambda index: len(index.shards), MAX_KNOWN_TENSORS)
        self._last: OfferedModel | None = None

    @property
    def roots(self) -> tuple[Path, ...]:
        """The directories, without links in their paths."""
        return self._roots

    def names(self) -> list[str]:
        """Return the names of all models, in order; whether they can be read is not looked at."""
        found = dict.fromkeys(name for root in self._roots for name in _models_below(root))
        return sorted(found)

    def find_for(self, name: str, tensor: str) -> OfferedModel:
        """Return the model with this name, as it was found last if that still says where a tensor lies.

        Raises:
            ModelFileError: There is none, or its files are not what they should be.
        """
        last = self._last
        if last is None or last.name != name or not last.is_current(tensor):
            last = self._last = self.find(name)
        return last

    def find(self, name: str) -> OfferedModel:
        """Return the model with this name.

        Raises:
            ModelFileError: There is none, or its files are not what they should be.
        """
        inner = _inner_path(name)
        for root in self._roots:
            place = root / inner
            if os.path.isdir(place):
                self._require_below(root, place, name)
                if os.path.lexists(place / INDEX_NAME):
                    return self._sharded(root, place, name)
                if os.path.lexists(place / WHOLE_NAME):
                    return self._single(root, place / WHOLE_NAME, name)
            elif name.endswith(SUFFIX) and os.path.lexists(place):
                return self._single(root, place, name)
        raise ModelFileError(
            f"this daemon has no model {name!r:.200}; `genie models` lists those that it has"
            if self._roots
            else "this daemon offers no models; start it with --model-dir DIR"
        )

    def file(self, path: Path) -> StoredFile:
        """Return a safetensors file by its path in one of the directories.

        Raises:
            ModelFileError: It is none, or leads out of them.
        """
        for root in self._roots:
            if path.is_relative_to(root):
                return self._stored.get(self._require_below(root, path, path.name))
        raise ModelFileError(f"{path.name} lies in no directory for models")

    def _single(self, root: Path, path: Path, name: str) -> OfferedModel:
        file = self._stored.get(self._require_below(root, path, name))
        return OfferedModel(name, (file,), {tensor.name: (file, tensor) for tensor in file.tensors})

    def _sharded(self, root: Path, folder: Path, name: str) -> OfferedModel:
        index = self._indexes.get(self._require_below(root, folder / INDEX_NAME, name))
        files = {
            shard: self._stored.get(self._require_below(root, folder / shard, shard))
            for shard in dict.fromkeys(index.shards.values())
        }
        stored = {shard: {tensor.name: tensor for tensor in file.tensors} for shard, file in files.items()}
        tensors = {}
        for tensor, shard in index.shards.items():
            if tensor not in stored[shard]:
                raise ModelFileError(f"{INDEX_NAME} says that {tensor!r:.200} is in {shard}, and it is not")
            tensors[tensor] = files[shard], stored[shard][tensor]
        return OfferedModel(name, tuple(files.values()), tensors, index)

    def _require_below(self, root: Path, path: Path, name: str) -> Path:
        """Return a path without links, if that lies below a directory."""
        real = Path(os.path.realpath(path))
        if not real.is_relative_to(root):
            raise ModelFileError(f"{name!r:.200} leads out of the directory for models")
        return real


def _inner_path(name: str) -> PurePosixPath:
    inner = PurePosixPath(name)
    if not name or "\0" in name or inner.is_absolute() or ".." in inner.parts:
        raise ModelFileError(f"{name!r:.200} is no name of a model; it is a path below the daemon's --model-dir")
    return inner


def _read_index(path: Path, descriptor: int) -> _Index:
    """Return what an index says.

    Raises:
        ModelFileError: The index is not what it should be, or names files elsewhere.
    """
    identity = FileIdentity.of(descriptor)
    data = read_whole(descriptor, MAX_INDEX_NBYTES, path.name)
    shards = decode_json(data, _WeightMap, path.name).weight_map
    require_distinct_keys(data, path.name)
    if not 0 < len(shards) <= MAX_MODEL_TENSORS:
        raise ModelFileError(f"{path.name} names {len(shards):,} tensors; 1 to {MAX_MODEL_TENSORS:,} are possible")
    for name in shards:
        require_name(name)
    for shard in set(shards.values()):
        if not shard.endswith(SUFFIX) or shard != PurePosixPath(shard).name or "\0" in shard:
            raise ModelFileError(f"{path.name} names the file {shard!r:.200}; shards are *{SUFFIX} files in its folder")
    return _Index(path, identity, shards)


def _models_below(root: Path) -> Iterator[str]:
    for count, (folder, inner, files) in enumerate(os.walk(root)):
        if count >= MAX_FOLDERS:
            return
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        place = os.path.relpath(folder, root)
        if INDEX_NAME in files or WHOLE_NAME in files:
            yield place
        if INDEX_NAME not in files:
            singles = (name for name in files if name.endswith(SUFFIX) and name != WHOLE_NAME)
            yield from (name if place == "." else f"{place}/{name}" for name in singles)


def stored_paths(root: Path) -> Iterator[Path]:
    """Yield all safetensors files below a directory that does not lead out of it, without links, each once."""
    seen = set()
    for count, (folder, inner, files) in enumerate(os.walk(root)):
        if count >= MAX_FOLDERS:
            return
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in sorted(files):
            real = Path(os.path.realpath(os.path.join(folder, name)))
            if name.endswith(SUFFIX) and real.is_relative_to(root) and real not in seen:
                seen.add(real)
                yield real
