"""What a worker says of the models in its daemon's files, and how it reads their tensors."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from dynamo_genie.errors import ModelFileError
from dynamo_genie.remote_daemon.model_files.catalogue import Catalogue
from dynamo_genie.remote_daemon.model_files.contents import Allocate, read_content, spec_of_stored
from dynamo_genie.remote_daemon.model_files.files import FileIdentity, StoredFile
from dynamo_genie.remote_daemon.model_files.header import StoredTensor
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.tensor import TensorSpec

MODELS_PER_ANSWER = 32
"""Each has all its headers read for that."""

ANSWER_NBYTES = 256 << 10
"""About so much of descriptions goes into one answer."""

MAX_KNOWN_DIGESTS = 262_144
MAX_PROBLEM = 500


@dataclass(frozen=True, eq=False)
class Loadable:
    """One tensor of a model as it shall be loaded."""

    file: StoredFile
    tensor: StoredTensor
    spec: TensorSpec

    @property
    def key(self) -> tuple[Path, FileIdentity, str, str]:
        """What tells it from all others."""
        return self.file.path, self.file.identity, self.tensor.name, self.spec.dtype

    def read(self, allocate: Allocate) -> tuple[bytes, torch.Tensor]:
        """Read it; return the digest of what was read, and its bytes (flat, uint8, on the host).

        Raises:
            ModelFileError: Its file was changed.
        """
        return read_content(self.file, self.tensor, self.spec, allocate)


class Models:
    """The models of one worker.

    What was read has a digest, which is remembered: who loads the same again finds it resident, and reads nothing.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._digests: dict[tuple[Path, FileIdentity, str, str], bytes] = {}

    def listed(self, request_id: int, start: int) -> m.ModelsListed:
        """Return some of the models there are."""
        names = self._catalogue.names()
        chosen = names[start : start + MODELS_PER_ANSWER]
        return m.ModelsListed(request_id, len(names), tuple(map(self._summary, chosen)))

    def described(self, request_id: int, name: str, start: int) -> m.ModelDescribed:
        """Return some of a model's tensors.

        Raises:
            ModelFileError: There is no such model, or its files are no good.
        """
        model = self._catalogue.find(name)
        found: list[m.ModelTensor] = []
        nbytes = 0
        for tensor, (_, stored) in islice(model.tensors.items(), start, None):
            found.append(m.ModelTensor(tensor, stored.dtype, stored.shape))
            nbytes += 4 * len(tensor) + 9 * len(stored.shape) + 24
            if nbytes > ANSWER_NBYTES:
                break
        return m.ModelDescribed(request_id, len(model.tensors), tuple(found))

    def loadable(self, name: str, tensor: str, dtype: str) -> Loadable:
        """Return a tensor of a model as it shall be loaded.

        Raises:
            ModelFileError: There is no such model, or it has no such tensor.
        """
        model = self._catalogue.find_for(name, tensor)
        found = model.tensors.get(tensor)
        if found is None:
            raise ModelFileError(f"the model {name!r:.200} has no tensor {tensor!r:.200}")
        file, stored = found
        return Loadable(file, stored, spec_of_stored(stored, dtype))

    def known_digest(self, loadable: Loadable) -> bytes | None:
        """Return the digest of what was read before of the same file, None where nothing was."""
        return self._digests.get(loadable.key)

    def remember(self, loadable: Loadable, digest: bytes) -> None:
        """Remember what was read."""
        if len(self._digests) >= MAX_KNOWN_DIGESTS:
            del self._digests[next(iter(self._digests))]
        self._digests[loadable.key] = digest

    def _summary(self, name: str) -> m.ModelSummary:
        try:
            model = self._catalogue.find(name)
        except ModelFileError as error:
            return m.ModelSummary(name, 0, 0, 0, (), str(error)[:MAX_PROBLEM])
        stored = [tensor for _, tensor in model.tensors.values()]
        dtypes = tuple(sorted(Counter(tensor.dtype for tensor in stored).items()))
        return m.ModelSummary(name, len(model.files), len(stored), sum(tensor.nbytes for tensor in stored), dtypes)
