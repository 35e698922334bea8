"""The processes that index models: one a directory, started and ended with the daemon, missed by the log alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from dynamo_genie.errors import OptionError
from dynamo_genie.remote_daemon.model_files.digest_index import FOLDER
from dynamo_genie.remote_daemon.model_files.indexer import PROCESS_NAME
from dynamo_genie.remote_daemon.sandbox.policy import SandboxPolicy
from dynamo_genie.remote_daemon.supervisor.indexing import ModelIndexes, check_model_dirs
from tests.remote_daemon.fixtures import eventually, process_name
from tests.remote_daemon.model_files.written import write_file


@contextmanager
def indexing(*directories: Path) -> Iterator[ModelIndexes]:
    indexes = ModelIndexes(directories, SandboxPolicy())
    try:
        yield indexes
    finally:
        indexes.close()


def test_each_directory_is_indexed_inside_it_at_the_lowest_priority(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_file(tmp_path / name / "m.safetensors", {"w": torch.ones(3)})
    with indexing(tmp_path / "a", tmp_path / "b") as indexes:
        assert indexes.folders == (tmp_path / "a" / FOLDER, tmp_path / "b" / FOLDER)
        assert eventually(lambda: all(list(folder.glob("*.digests")) for folder in indexes.folders))
        pids = indexes.pids
        assert [process_name(pid) for pid in pids] == [PROCESS_NAME] * 2
        assert [os.getpriority(os.PRIO_PROCESS, pid) for pid in pids] == [19, 19]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_where_a_link_or_a_file_is_in_the_way_the_index_is_elsewhere_and_goes_with_the_daemon(tmp_path: Path) -> None:
    (tmp_path / "linked").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "linked" / FOLDER).symlink_to(tmp_path / "elsewhere")
    write_file(tmp_path / "linked" / "m.safetensors", {"w": torch.ones(3)})
    with indexing(tmp_path / "linked") as indexes:
        (folder,) = indexes.folders
        assert tmp_path not in folder.parents
        assert eventually(lambda: list(folder.glob("*.digests")))
        assert not list((tmp_path / "elsewhere").iterdir())
    assert not folder.exists()


def test_one_that_ends_is_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with indexing(tmp_path) as indexes:
        (pid,) = indexes.pids
        os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: indexes.look() or not indexes.pids)  # type: ignore[func-returns-value]
        indexes.look()
    assert caplog.text.count("is not indexed any more") == 1


def test_what_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    assert check_model_dirs([tmp_path / "link"]) == (tmp_path,)
    for name in ("file", "nothing"):
        with pytest.raises(OptionError, match="name a directory with safetensors files"):
            check_model_dirs([tmp_path / name])
