"""A worker that the kernel killed for lack of memory is named as such, and others are not."""

from __future__ import annotations

from dynamo_genie.remote_daemon.supervisor.oom import LOOKS, OutOfMemoryKills, kills_so_far


class Counted:
    """A kernel's count."""

    def __init__(self) -> None:
        self.kills = 5

    def __call__(self) -> int:
        return self.kills


def test_a_kill_that_the_kernel_counted_was_for_lack_of_memory() -> None:
    count = Counted()
    kills = OutOfMemoryKills(count)
    assert kills.explain("killed by SIGKILL") == "killed by SIGKILL"
    count.kills += 1
    assert kills.explain("exit code 1") == "exit code 1"
    assert kills.explain("killed by SIGKILL") == "killed by SIGKILL: by the kernel, for lack of memory"
    assert kills.explain("killed by SIGKILL") == "killed by SIGKILL"


def test_what_was_counted_long_before_a_death_is_not_its_cause() -> None:
    count = Counted()
    late, later = OutOfMemoryKills(count), OutOfMemoryKills(count)
    count.kills += 1
    for kills, looks in ((late, LOOKS - 1), (later, LOOKS)):
        for _ in range(looks):
            kills.look()
    assert "lack of memory" in late.explain("killed by SIGKILL")
    assert "lack of memory" not in later.explain("killed by SIGKILL")


def test_what_the_kernel_did_not_count_was_done_from_outside_unless_it_does_not_count() -> None:
    count = Counted()
    kills = OutOfMemoryKills(count)
    assert kills.from_outside(kills.explain("killed by SIGKILL"))
    assert not kills.from_outside(kills.explain("killed by SIGSEGV"))
    count.kills += 1
    assert not kills.from_outside(kills.explain("killed by SIGKILL"))
    count.kills = -1
    assert not kills.from_outside(kills.explain("killed by SIGKILL"))


def test_this_kernel_counts() -> None:
    assert kills_so_far() >= 0
