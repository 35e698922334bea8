from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest

from dynamo_genie.remote_daemon.sandbox.plan import (
    DEVICES,
    Kernel,
    Restrictions,
    Surroundings,
    WorkerUser,
    gaps,
    is_beneath,
    outermost,
    plan_files,
    without,
)

TREE: Mapping[str, tuple[str, ...]] = {
    "/home/me/project": ("code", "keys", "more", "notes"),
    "/home/me/project/more": ("deep", "other"),
    "/home/me/project/more/deep": ("keys", "module.py"),
}
AROUND = Surroundings(python=("/opt/python", "/opt/python/lib/site", "/home/me/project"), devices=("/dev/nvidia0",))
ORDERED = Restrictions("/tmp/scratch")
WHOLE = Kernel(landlock=7, seccomp=True)
USER = WorkerUser("genie", 900, 900)


def test_a_worker_reads_python_and_the_system_and_owns_its_scratch_directory_alone() -> None:
    plan = plan_files(ORDERED, AROUND, TREE.__getitem__)
    assert {"/usr", "/opt/python", "/home/me/project", "/proc/self", "/etc/ld.so.cache"} <= set(plan.reads)
    assert plan.owns == ("/tmp/scratch",)
    assert plan.devices == DEVICES
    assert plan.lists == ()


@pytest.mark.parametrize(
    "place",
    [
        "/",
        "/etc",
        "/etc/shadow",
        "/etc/ssl/private",
        "/home",
        "/home/me",
        "/root",
        "/tmp",
        "/var",
        "/run",
        "/proc",
        "/sys",
        "/dev",
    ],
)
def test_what_is_the_machines_or_somebodys_is_not_read(place: str) -> None:
    plan = plan_files(ORDERED, AROUND, TREE.__getitem__)
    assert not any(is_beneath(place, read) for read in (*plan.reads, *plan.owns, *plan.lists))


def test_what_is_hidden_is_left_out_of_a_place_that_holds_it() -> None:
    hidden = ("/home/me/project/keys", "/home/me/project/more/deep/keys", "/home/me/.ssh")
    plan = plan_files(Restrictions("/tmp/scratch", hidden=hidden), AROUND, TREE.__getitem__)
    mine = [place for place in plan.reads if place.startswith("/home")]
    assert mine == [
        "/home/me/project/code",
        "/home/me/project/more/deep/module.py",
        "/home/me/project/more/other",
        "/home/me/project/notes",
    ]
    assert plan.lists == ("/home/me/project", "/home/me/project/more", "/home/me/project/more/deep")


def test_a_place_inside_a_hidden_one_is_hidden_too() -> None:
    assert without("/keys/python", ["/keys"], TREE.__getitem__) == ([], [])
    assert without("/keys", ["/keys"], TREE.__getitem__) == ([], [])
    assert without("/keys2", ["/keys"], TREE.__getitem__) == (["/keys2"], [])


def test_a_gpu_brings_its_devices_the_kernels_own_files_and_shared_memory() -> None:
    plan = plan_files(msgspec.structs.replace(ORDERED, cuda=True), AROUND, TREE.__getitem__)
    assert "/dev/nvidia0" in plan.devices
    assert {"/proc", "/sys"} <= set(plan.reads)
    assert plan.owns == ("/tmp/scratch", "/dev/shm")


def test_a_folder_that_is_the_tenants_is_written_and_its_neighbours_are_not_entered() -> None:
    ordered = msgspec.structs.replace(ORDERED, shares=("/var/weights/mine",), hidden=("/var/weights",))
    plan = plan_files(ordered, AROUND, TREE.__getitem__)
    assert plan.owns == ("/tmp/scratch", "/var/weights/mine")
    assert not any(is_beneath("/var/weights/theirs", place) for place in (*plan.reads, *plan.owns, *plan.lists))


def test_models_are_read_by_all_and_neither_run_nor_written_nor_what_is_hidden_among_them() -> None:
    ordered = msgspec.structs.replace(
        ORDERED, models=("/home/me/project", "/models"), hidden=("/home/me/project/keys",)
    )
    plan = plan_files(ordered, Surroundings(python=()), TREE.__getitem__)
    assert plan.data == ("/models", "/home/me/project/code", "/home/me/project/more", "/home/me/project/notes")
    assert plan.lists == ("/home/me/project",)
    assert not any(is_beneath(place, "/home") or is_beneath(place, "/models") for place in (*plan.reads, *plan.owns))


def test_only_the_outermost_of_nested_places_is_named() -> None:
    assert outermost(["/a/b", "/a", "/ab", "/a", "relative", "/c/d/e", "/c/d"]) == ["/a", "/ab", "/c/d"]
    assert outermost(["/x", "/"]) == ["/"]


def test_restrictions_come_through_the_command_line_as_they_are() -> None:
    restrictions = Restrictions("/tmp/a b", ("/k",), USER, confined=False, cuda=True)
    assert msgspec.json.decode(msgspec.json.encode(restrictions), type=Restrictions) == restrictions


def test_nothing_is_said_where_nothing_is_missing() -> None:
    assert gaps(WHOLE, confined=True, is_root=False, user=None) == []
    assert gaps(WHOLE, confined=True, is_root=True, user=USER) == []


@pytest.mark.parametrize(
    ("kernel", "settings", "said"),
    [
        (Kernel(0, True), {}, ["Landlock is missing"]),
        (Kernel(2, True), {}, ["send signals", "truncation"]),
        (Kernel(5, True), {}, ["send signals"]),
        (Kernel(7, False), {}, ["seccomp is missing"]),
        (Kernel(0, False), {}, ["Landlock is missing", "seccomp is missing"]),
        (WHOLE, {"is_root": True}, ["run as root"]),
        (Kernel(0, False), {"confined": False}, ["the sandbox is off"]),
    ],
)
def test_each_thing_that_is_missing_is_named(kernel: Kernel, settings: dict[str, bool], said: list[str]) -> None:
    found = gaps(kernel, confined=settings.get("confined", True), is_root=settings.get("is_root", False), user=None)
    assert len(found) == len(said)
    for line, part in zip(found, said, strict=True):
        assert part in line
