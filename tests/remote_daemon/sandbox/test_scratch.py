from __future__ import annotations

import os
import stat
import sys
import time
from pathlib import Path

import pytest

from dynamo_genie.errors import OptionError
from dynamo_genie.remote_daemon.sandbox.enter import command_into, environment_into
from dynamo_genie.remote_daemon.sandbox.plan import Restrictions
from dynamo_genie.remote_daemon.sandbox.policy import SandboxPolicy
from dynamo_genie.remote_daemon.sandbox.privileges import find_worker_user
from dynamo_genie.remote_daemon.sandbox.scratch import CACHES, SETTLED_S, Scratch, sweep


def test_each_worker_has_a_private_directory_that_ends_with_it(tmp_path: Path) -> None:
    first, second = (Scratch(str(tmp_path), "d.", None) for _ in range(2))
    assert first.path != second.path
    assert stat.S_IMODE(os.stat(first.path).st_mode) == 0o700
    Path(first.path, "cache", "deep").mkdir(parents=True)
    first.remove()
    first.remove()
    assert list(tmp_path.iterdir()) == [Path(second.path)]
    second.remove()


def test_what_killed_daemons_left_is_swept_and_what_is_used_or_new_or_anothers_is_not(tmp_path: Path) -> None:
    used = Scratch(str(tmp_path), "d.", None)
    left, new, other = (tmp_path / name for name in ("d.left", "d.new", "e.left"))
    for directory in (left, new, other):
        (directory / "inductor").mkdir(parents=True)
    (tmp_path / "d.file").write_text("no directory")
    (tmp_path / "d.link").symlink_to(other)
    long_ago = time.time() - 2 * SETTLED_S
    for path in (used.path, left, other, tmp_path / "d.file"):
        os.utime(path, (long_ago, long_ago))
    sweep(str(tmp_path), "d.", None)
    assert {path.name for path in tmp_path.iterdir()} == {Path(used.path).name, "d.new", "e.left", "d.file", "d.link"}
    assert (other / "inductor").exists()
    used.remove()


def test_libraries_are_told_to_write_in_the_scratch_directory_only_where_they_are_confined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    confined = environment_into(Restrictions("/s"))
    assert all(Path(confined[name]).is_relative_to("/s") for name in CACHES)
    assert "TORCHINDUCTOR_CACHE_DIR" not in environment_into(Restrictions("/s", confined=False))


def test_a_worker_is_started_through_the_sandbox() -> None:
    command = command_into(Restrictions("/s"), ("python", "-m", "some.worker"))
    assert command[:3] == ["python", "-m", "dynamo_genie.remote_daemon.sandbox.enter"]
    assert command[-1] == "some.worker"


def test_keys_and_the_secrets_of_a_home_are_hidden_by_their_real_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "real").mkdir()
    (tmp_path / "keys").symlink_to(tmp_path / "real")
    monkeypatch.setenv("GENIE_KEY_FILE", str(tmp_path / "alice.key"))
    scratch = Scratch(str(tmp_path), "d.", None)
    restrictions = SandboxPolicy(hidden=(str(tmp_path / "keys"),)).restrictions(scratch.path, "cpu")
    scratch.remove()
    assert {str(tmp_path / "real"), str(tmp_path / ".ssh"), str(tmp_path / "alice.key")} <= set(restrictions.hidden)
    assert not restrictions.cuda


@pytest.mark.parametrize(
    ("uid", "name", "why"),
    [(0, "no-such-user", "there is no such user"), (0, "root", "is root"), (1000, "nobody", "this one is user 1000")],
)
def test_a_worker_user_that_cannot_be_is_refused(
    monkeypatch: pytest.MonkeyPatch, uid: int, name: str, why: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    with pytest.raises(OptionError, match=why):
        find_worker_user(name)


def test_bytecode_that_is_not_there_is_written_before_workers_that_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path))
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    SandboxPolicy(confined=False).prepare("json.tool")
    assert list(tmp_path.iterdir()) == []
    SandboxPolicy().prepare("json.tool")
    assert list(tmp_path.rglob("json/tool.*.pyc"))
