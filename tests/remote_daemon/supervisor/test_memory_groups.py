"""Cgroups for workers: both versions of the interface as trees of files, and the real one where there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dynamo_genie.remote_daemon.supervisor.memory_groups import OVERHEAD_NBYTES, OWN_GROUP, MemoryGroups

ME = os.getpid()
VERSION_1 = Path("/sys/fs/cgroup/memory")


def membership(tree: Path, text: str) -> Path:
    file = tree / "membership"
    file.write_text(text)
    return file


def version_2(tree: Path, group: str, *inside: int, controllers: str = "cpu memory pids") -> Path:
    base = tree / group
    base.mkdir(parents=True)
    (base / "cgroup.controllers").write_text(controllers)
    (base / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in inside))
    return base


def test_version_1_limits_a_group_below_the_own_one(tmp_path: Path) -> None:
    (tmp_path / "memory" / "box").mkdir(parents=True)
    found = MemoryGroups.find({ME}, tmp_path, membership(tmp_path, "5:cpu,cpuacct:/\n4:memory:/box\n0::/\n"))
    group = found.make(1 << 30)
    (path,) = [path for path in (tmp_path / "memory" / "box").iterdir() if path.name.endswith("-2")]
    assert int((path / "memory.limit_in_bytes").read_text()) == (1 << 30) + OVERHEAD_NBYTES
    group.add(ME)
    assert (path / "cgroup.procs").read_text() == str(ME)
    (path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    assert group.kills == 3


def test_version_2_moves_the_daemon_into_a_group_of_its_own_first(tmp_path: Path) -> None:
    base = version_2(tmp_path, "system.slice/genie.service", ME)
    (base / OWN_GROUP).mkdir()
    found = MemoryGroups.find({ME, 1}, tmp_path, membership(tmp_path, "0::/system.slice/genie.service\n"))
    assert (base / OWN_GROUP / "cgroup.procs").read_text() == str(ME)
    assert (base / "cgroup.subtree_control").read_text() == "+memory"
    group = found.make(1 << 20)
    (path,) = [path for path in base.iterdir() if path.name.endswith("-2")]
    assert int((path / "memory.max").read_text()) == (1 << 20) + OVERHEAD_NBYTES
    (path / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
    assert group.kills == 1


def test_a_supervisor_that_was_started_again_uses_the_groups_parent(tmp_path: Path) -> None:
    base = version_2(tmp_path, "unit")
    (base / OWN_GROUP).mkdir()
    (base / OWN_GROUP / "cgroup.controllers").write_text("memory")
    MemoryGroups.find({ME}, tmp_path, membership(tmp_path, f"0::/unit/{OWN_GROUP}\n")).make(1)
    assert [path.name for path in base.iterdir() if path.name.startswith("worker-")]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0::/shared\n", "other processes are in the daemon's own cgroup, too"),
        ("0::/bare\n", "lacks Delegate=memory"),
        ("3:cpu:/\n", "memory is not divided here"),
        ("4:memory:/nowhere\n", "No such file or directory"),
    ],
)
def test_where_no_group_can_be_made_it_says_why(tmp_path: Path, text: str, why: str) -> None:
    version_2(tmp_path, "shared", ME, 1)
    version_2(tmp_path, "bare", ME, controllers="cpu")
    with pytest.raises(OSError, match=why):
        MemoryGroups.find({ME}, tmp_path, membership(tmp_path, text))


def test_what_killed_daemons_left_is_removed_and_what_lives_is_not(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    base = tmp_path / "memory"
    old, living = base / f"worker-{gone.pid}-1", base / "worker-1-1"
    old.mkdir(parents=True)
    living.mkdir()
    MemoryGroups.find({ME}, tmp_path, membership(tmp_path, "4:memory:/\n"))
    assert (old.exists(), living.exists()) == (False, True)


def real_groups() -> MemoryGroups | None:
    try:
        return MemoryGroups.find({ME})
    except OSError:
        return None


@pytest.mark.skipif(not VERSION_1.is_dir() or real_groups() is None, reason="no memory cgroup can be made here")
def test_the_kernel_counts_and_kills_in_a_group() -> None:
    groups = MemoryGroups.find({ME})
    group = groups.make((64 << 20) - OVERHEAD_NBYTES)
    code = "input(); data = b'x' * (256 << 20)"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        group.add(process.pid)
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.close()
        assert process.wait(30) == -9
    assert group.kills == 1
    waiting = subprocess.Popen(["sleep", "1000"])
    group.add(waiting.pid)
    groups.give_back(group)
    assert waiting.wait(10) == -9
    for _ in range(1000):
        groups.look()
        if not groups._leaving:
            break
    assert not groups._leaving
