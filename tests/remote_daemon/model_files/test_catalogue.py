"""The catalogue of models: what is offered under which name, and that no name leads out of the directories."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynamo_genie.errors import ModelFileError
from dynamo_genie.remote_daemon.model_files.catalogue import INDEX_NAME, Catalogue
from dynamo_genie.remote_daemon.model_files.files import KnownFiles
from tests.remote_daemon.model_files.written import write_file, write_shards

ONE, TWO = {"a": torch.ones(3)}, {"b": torch.zeros(2, 2), "c": torch.arange(4)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    write_file(root / "whole" / "model.safetensors", ONE)
    write_shards(root / "deep" / "er", {"model-1.safetensors": ONE, "model-2.safetensors": TWO})
    write_file(root / "single.safetensors", TWO)
    write_file(tmp_path / "secret.safetensors", ONE)
    return root


def refuses(catalogue: Catalogue, name: str, why: str) -> None:
    with pytest.raises(ModelFileError, match=why):
        catalogue.find(name)


def test_folders_shards_and_single_files_are_models(root: Path) -> None:
    catalogue = Catalogue((root,))
    assert catalogue.names() == ["deep/er", "single.safetensors", "whole"]
    assert set(catalogue.find("deep/er").tensors) == {"a", "b", "c"}
    assert [file.path.name for file in catalogue.find("deep/er").files] == [
        "model-1.safetensors",
        "model-2.safetensors",
    ]
    assert set(catalogue.find("single.safetensors").tensors) == {"b", "c"}
    assert set(catalogue.find("whole/").tensors) == set(catalogue.find("./whole").tensors) == {"a"}


def test_a_directory_may_itself_be_a_model(root: Path) -> None:
    catalogue = Catalogue((root / "deep" / "er",))
    assert catalogue.names() == ["."]
    assert set(catalogue.find(".").tensors) == {"a", "b", "c"}


def test_of_two_directories_the_first_one_with_a_name_counts(root: Path, tmp_path: Path) -> None:
    write_file(tmp_path / "more" / "whole" / "model.safetensors", TWO)
    write_file(tmp_path / "more" / "other.safetensors", TWO)
    catalogue = Catalogue((root, tmp_path / "more"))
    assert set(catalogue.find("whole").tensors) == {"a"}
    assert set(catalogue.find("other.safetensors").tensors) == {"b", "c"}
    assert catalogue.names().count("whole") == 1


@pytest.mark.parametrize("name", ["", "..", "../secret.safetensors", "whole/../../secret.safetensors", "/etc", "a\0b"])
def test_names_that_lead_elsewhere_are_no_names(root: Path, name: str) -> None:
    refuses(Catalogue((root,)), name, "is no name of a model")


def test_the_path_of_a_file_elsewhere_is_no_name(root: Path, tmp_path: Path) -> None:
    refuses(Catalogue((root,)), str(tmp_path / "secret.safetensors"), "is no name of a model")


@pytest.mark.parametrize("name", ["nothing", "deep", "whole/config.json", "x" * 300, "whole/model.safetensors/x"])
def test_a_name_of_nothing_is_an_error_that_says_how_to_see_all(root: Path, name: str) -> None:
    (root / "whole" / "config.json").write_text("{}")
    refuses(Catalogue((root,)), name, "has no model .*genie models")


def test_without_a_directory_the_error_says_how_to_offer_models() -> None:
    refuses(Catalogue(()), "whole", "--model-dir DIR")


def test_links_that_lead_out_are_refused_and_others_followed(root: Path, tmp_path: Path) -> None:
    (root / "out.safetensors").symlink_to(tmp_path / "secret.safetensors")
    (root / "outer").symlink_to(tmp_path)
    (root / "snapshot").mkdir()
    (root / "snapshot" / "model.safetensors").symlink_to("../single.safetensors")
    (root / "linked").mkdir()
    (root / "linked" / "model.safetensors").symlink_to("../../secret.safetensors")
    catalogue = Catalogue((root,))
    assert set(catalogue.find("snapshot").tensors) == {"b", "c"}
    for name in ("out.safetensors", "outer", "outer/secret.safetensors", "linked"):
        refuses(catalogue, name, "leads out|has no model")
    with pytest.raises(ModelFileError, match="lies in no directory"):
        catalogue.file(tmp_path / "secret.safetensors")
    with pytest.raises(ModelFileError, match="leads out"):
        catalogue.file(root / "linked" / "model.safetensors")


def index(root: Path, weight_map: object, name: str = "broken") -> str:
    write_file(root / name / "model-1.safetensors", ONE)
    (root / name / INDEX_NAME).write_text(json.dumps({"weight_map": weight_map}))
    return name


@pytest.mark.parametrize(
    ("weight_map", "why"),
    [
        ({"a": "model-1.safetensors", "z": "model-1.safetensors"}, "'z' is in model-1.safetensors, and it is not"),
        ({"a": "model-2.safetensors"}, "cannot be read"),
        ({"a": "../single.safetensors"}, "names the file"),
        ({"a": "/etc/passwd"}, "names the file"),
        ({"a": "config.json"}, "names the file"),
        ({"a": "..safetensors"}, "cannot be read"),
        ({"a": ""}, "names the file"),
        ({"a": "x\0.safetensors"}, "names the file"),
        ({}, "names 0 tensors"),
        ({"a": 5}, "cannot be read"),
        ([], "cannot be read"),
    ],
    ids=range(11),
)
def test_an_index_that_is_not_true_or_names_files_elsewhere_is_refused(
    root: Path, weight_map: object, why: str
) -> None:
    refuses(Catalogue((root,)), index(root, weight_map), why)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"weight_map": {"a": "model-1.safetensors", "a": "model-1.safetensors"}}', "[" * 100_000],
    ids=["empty", "list", "cut", "twice", "deep"],
)
def test_an_index_that_is_no_json_of_its_kind_is_refused(root: Path, text: str) -> None:
    name = index(root, {})
    (root / name / INDEX_NAME).write_text(text)
    refuses(Catalogue((root,)), name, "cannot be read|twice")


def test_a_shard_that_is_a_link_out_of_the_directory_is_refused(root: Path, tmp_path: Path) -> None:
    name = index(root, {"a": "model-2.safetensors"})
    (root / name / "model-2.safetensors").symlink_to(tmp_path / "secret.safetensors")
    refuses(Catalogue((root,)), name, "leads out")


def test_a_model_that_was_replaced_is_read_anew(root: Path) -> None:
    catalogue = Catalogue((root,))
    assert set(catalogue.find_for("whole", "a").tensors) == {"a"}
    write_file(root / "whole" / "new", TWO).replace(root / "whole" / "model.safetensors")
    assert set(catalogue.find_for("whole", "a").tensors) == {"b", "c"}


def test_a_replaced_index_is_read_anew(root: Path) -> None:
    catalogue = Catalogue((root,))
    folder = root / "deep" / "er"
    assert catalogue.find_for("deep/er", "a").tensors["a"][0].path.name == "model-1.safetensors"
    write_shards(folder, {"model-2.safetensors": TWO, "model-3.safetensors": ONE})
    assert catalogue.find_for("deep/er", "a").tensors["a"][0].path.name == "model-3.safetensors"


def test_what_was_read_is_remembered_within_a_limit_and_until_it_changes(root: Path) -> None:
    read: list[str] = []

    def look(path: Path, descriptor: int) -> str:
        read.append(path.name)
        return path.name

    known = KnownFiles(look, lambda name: 1, limit=5)
    paths = [write_file(root / f"{count}.safetensors", ONE) for count in range(3)]
    for count in (0, 1, 0, 2, 0, 1):
        assert known.get(paths[count]) == paths[count].name
    assert read == ["0.safetensors", "1.safetensors", "2.safetensors", "1.safetensors"]
    write_file(paths[1], TWO)
    known.get(paths[1])
    assert len(read) == 5


@given(st.text(alphabet="./ab\\~\0ä", max_size=12))
def test_no_name_finds_anything_but_models_below_the_directory(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    base = tmp_path_factory.getbasetemp() / "names"
    if not base.exists():
        write_file(base / "root" / "a" / "model.safetensors", ONE)
        write_file(base / "root" / "b.safetensors", ONE)
        write_file(base / "a" / "model.safetensors", TWO)
        write_file(base / "b.safetensors", TWO)
    try:
        found = Catalogue((base / "root",)).find(name)
    except ModelFileError:
        return
    assert set(found.tensors) == {"a"}
    assert os.path.normpath(name) in ("a", "b.safetensors")
