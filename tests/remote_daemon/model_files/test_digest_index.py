"""The index of contents says where bytes lie that a client offers, and is believed as far as they are those."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dynamo_genie.errors import ModelFileError
from dynamo_genie.remote_daemon.model_files.catalogue import Catalogue
from dynamo_genie.remote_daemon.model_files.contents import read_content, spec_of_stored
from dynamo_genie.remote_daemon.model_files.digest_index import FileDigests, IndexFolder, KnownContents, digest_file
from dynamo_genie.remote_daemon.model_files.filed_weights import FiledWeights, KeptTogether
from dynamo_genie.remote_daemon.model_files.indexer import bring_up_to_date
from dynamo_genie.remote_daemon.weight_files.cache import WeightCache
from dynamo_genie.runtime.wire.tensor import TensorSpec
from dynamo_genie.tensors import TORCH_DTYPES, from_flat_bytes
from tests.remote_daemon.model_files.written import write_file
from tests.remote_daemon.weight_files.test_cache import allocate, described

TENSORS = {
    "large": torch.rand(700, 800),
    "small": torch.arange(5),
    "none": torch.empty(0, 3),
    "half": torch.rand(9).half(),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_file(tmp_path / "models" / "llama" / "model.safetensors", TENSORS)
    return tmp_path / "models"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "index").mkdir()
    return tmp_path / "index"


def filed(root: Path, folder: Path) -> FiledWeights:
    return FiledWeights(Catalogue((root,)), KnownContents((folder,)))


@pytest.mark.parametrize("name", TENSORS)
def test_what_a_client_offers_is_found_in_a_file(root: Path, folder: Path, name: str) -> None:
    assert bring_up_to_date(root, folder) == 1
    digest, spec, memory = described(TENSORS[name])
    kept = filed(root, folder)
    assert kept.describe(digest) == spec
    found = kept.read(digest, allocate)
    assert found is not None
    assert torch.equal(found, memory)


def test_what_is_up_to_date_is_not_hashed_again_and_what_is_gone_is_forgotten(root: Path, folder: Path) -> None:
    assert [bring_up_to_date(root, folder), bring_up_to_date(root, folder)] == [1, 0]
    path = write_file(root / "other.safetensors", TENSORS)
    assert bring_up_to_date(root, folder) == 1
    path.unlink()
    assert bring_up_to_date(root, folder) == 0
    assert len(IndexFolder(folder).paths()) == 1


def test_new_indexes_are_seen_without_a_restart(root: Path, folder: Path) -> None:
    kept = filed(root, folder)
    digest = described(TENSORS["large"])[0]
    assert kept.describe(digest) is None
    bring_up_to_date(root, folder)
    assert kept.describe(digest) is not None


def test_a_changed_file_is_not_believed(root: Path, folder: Path) -> None:
    bring_up_to_date(root, folder)
    kept, digest = filed(root, folder), described(TENSORS["large"])[0]
    write_file(root / "llama" / "model.safetensors", {**TENSORS, "large": torch.zeros(700, 800)})
    assert kept.describe(digest) is None
    assert kept.read(digest, allocate) is None


def test_a_file_that_looks_the_same_and_has_other_bytes_is_found_out(
    root: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bring_up_to_date(root, folder)
    kept, digest = filed(root, folder), described(TENSORS["large"])[0]
    path = root / "llama" / "model.safetensors"
    before, data = path.stat(), bytearray(path.read_bytes())
    data[-100_000] ^= 1
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert kept.describe(digest) is not None
    assert kept.read(digest, allocate) is None
    assert "is not what its index says" in caplog.text


def test_an_index_that_lies_or_is_garbage_costs_nothing_but_time(root: Path, folder: Path) -> None:
    path = root / "llama" / "model.safetensors"
    true = digest_file(path)
    digest = described(TENSORS["large"])[0]
    indexes = IndexFolder(folder)
    indexes.write(FileDigests("/etc/passwd", true.identity, digest))
    for garbage in (b"", b"x" * 100, b"\x93" * 1000):
        (folder / f"{len(garbage)}.digests").write_bytes(garbage)
    assert filed(root, folder).describe(digest) is None
    assert indexes.read(folder / "100.digests") is None
    small = described(TENSORS["small"])[0]
    indexes.write(FileDigests(str(path), true.identity, small))  # the first tensor of the file is another one
    assert filed(root, folder).describe(small) is not None
    assert filed(root, folder).read(small, allocate) is None


def test_files_that_are_none_get_no_index_and_stop_nothing(root: Path, folder: Path) -> None:
    (root / "bad.safetensors").write_bytes(b"x" * 50)
    os.mkfifo(root / "pipe.safetensors")
    assert bring_up_to_date(root, folder) == 1


def test_a_cache_beside_the_files_takes_what_they_lack(root: Path, folder: Path, tmp_path: Path) -> None:
    bring_up_to_date(root, folder)
    (tmp_path / "cache").mkdir()

    class Written:
        """A cache that is written at once."""

        def __init__(self) -> None:
            self.cache = WeightCache(tmp_path / "cache")
            self.describe, self.read, self.keep = self.cache.describe, self.cache.read, self.cache.write

    both = KeptTogether(filed(root, folder), Written())
    other = torch.rand(40)
    for tensor in (TENSORS["large"], other):
        both.keep(*described(tensor))
        found = both.read(described(tensor)[0], allocate)
        assert found is not None
        assert torch.equal(found, described(tensor)[2])
        assert both.describe(described(tensor)[0]) == described(tensor)[1]
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert both.describe(b"x" * 16) is None


# --- what is read --------------------------------------------------------------------------------------------


def loaded(root: Path, name: str, dtype: str = "") -> tuple[bytes, TensorSpec, Tensor]:
    file, stored = Catalogue((root,)).find("llama").tensors[name]
    spec = spec_of_stored(stored, dtype)
    digest, memory = read_content(file, stored, spec, allocate)
    return digest, spec, memory


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("dtype", ["", "float16", "float64", "bfloat16", "float32"])
def test_a_tensor_is_read_as_it_is_or_cast_as_torch_casts_it(root: Path, name: str, dtype: str) -> None:
    tensor = TENSORS[name]
    expected = tensor.to(TORCH_DTYPES[dtype]) if dtype and tensor.is_floating_point() else tensor
    digest, spec, memory = loaded(root, name, dtype)
    assert torch.equal(from_flat_bytes(memory, spec), expected)
    assert (digest, spec) == described(expected)[:2]


def test_numbers_are_not_made_of_weights(root: Path) -> None:
    with pytest.raises(ModelFileError, match="not loaded as int8"):
        loaded(root, "large", "int8")


def test_a_file_that_was_replaced_after_its_header_was_read_is_an_error(root: Path) -> None:
    file, stored = Catalogue((root,)).find("llama").tensors["large"]
    write_file(root / "llama" / "model.safetensors", TENSORS)
    with pytest.raises(ModelFileError, match="was changed while the model was loaded"):
        read_content(file, stored, stored.spec, allocate)
