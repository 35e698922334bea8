"""Weights that a client offers by digest, and that lie in a model file of the daemon: then nobody sends them."""

from __future__ import annotations

import logging

import torch

from dynamo_genie.errors import ModelFileError
from dynamo_genie.remote_daemon.memory.weight_store import Kept
from dynamo_genie.remote_daemon.model_files.catalogue import Catalogue
from dynamo_genie.remote_daemon.model_files.contents import Allocate, read_content
from dynamo_genie.remote_daemon.model_files.digest_index import KnownContents
from dynamo_genie.remote_daemon.model_files.files import StoredFile
from dynamo_genie.remote_daemon.model_files.header import StoredTensor
from dynamo_genie.runtime.wire.tensor import TensorSpec

logger = logging.getLogger(__name__)


class FiledWeights:
    """The contents of model files by digest, as far as their indexes are made. They are read and proved."""

    def __init__(self, catalogue: Catalogue, contents: KnownContents) -> None:
        self._catalogue = catalogue
        self._contents = contents

    def describe(self, digest: bytes) -> TensorSpec | None:
        """Return how a weight with this content is described, None where no file has it."""
        found = self._find(digest)
        return None if found is None else found[1].spec

    def read(self, digest: bytes, allocate: Allocate) -> torch.Tensor | None:
        """Return the bytes of a weight (flat, uint8), None where no file has them.

        Raises:
            QuotaExceeded: What `allocate` raises.
        """
        found = self._find(digest)
        if found is None:
            return None
        file, tensor = found
        try:
            found_digest, memory = read_content(file, tensor, tensor.spec, allocate)
        except ModelFileError as error:
            logger.warning("a weight is not taken from %s: %s", file.path, error)
            return None
        if found_digest != digest:
            logger.warning("%r in %s is not what its index says", tensor.name, file.path)
            return None
        return memory

    def keep(self, digest: bytes, spec: TensorSpec, memory: torch.Tensor) -> None:
        """Keep nothing: the files are the operator's."""

    def _find(self, digest: bytes) -> tuple[StoredFile, StoredTensor] | None:
        place = self._contents.find(digest)
        if place is None:
            return None
        try:
            file = self._catalogue.file(place.path)
        except ModelFileError:
            return None
        if file.identity != place.identity or place.position >= len(file.tensors):
            return None
        return file, file.tensors[place.position]


class KeptTogether:
    """Weights that are kept in two places: one that somebody else fills, and one that takes what the first lacks."""

    def __init__(self, first: Kept, second: Kept) -> None:
        self._first = first
        self._second = second

    def describe(self, digest: bytes) -> TensorSpec | None:
        """Return how a weight is described in the first place that has it."""
        return self._first.describe(digest) or self._second.describe(digest)

    def read(self, digest: bytes, allocate: Allocate) -> torch.Tensor | None:
        """Return its bytes from the first place that has them whole."""
        memory = self._first.read(digest, allocate)
        return self._second.read(digest, allocate) if memory is None else memory

    def keep(self, digest: bytes, spec: TensorSpec, memory: torch.Tensor) -> None:
        """Keep a weight in the second place, unless the first has it."""
        if self._first.describe(digest) is None:
            self._second.keep(digest, spec, memory)
