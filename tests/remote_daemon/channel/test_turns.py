"""Whose turn it is: who has used the least time, and nobody is ahead of another by more than one turn of each."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo_genie.remote_daemon.channel.turns import MAX_PATIENCE_S, MAX_WAIT_S, MIN_PATIENCE_S, PATIENCE, Turns

HOG, LIGHT, OTHER = "hog", "light", "other"
LONG, SHORT = 0.1, 0.001


class Members:
    """Members that are always ready, and the turns that they had."""

    def __init__(self, **lengths: float) -> None:
        self.turns: Turns[str] = Turns()
        self.lengths = lengths
        self.now = 0.0
        self.had: list[str] = []

    def ready(self, *members: str) -> None:
        for member in members:
            self.turns.ready(member, self.now)

    def run(self, count: int = 1) -> list[str]:
        """Let turns be had by members that have more work at once; return whose they were."""
        for _ in range(count):
            self.turn(more=True)
        return self.had[-count:]

    def wait(self) -> None:
        """Let nobody come while one that paused is waited for."""
        self.turns.waited(self.turns.patience_s)
        self.now += self.turns.patience_s

    def turn(self, *, more: bool) -> str:
        while (member := self.turns.begin(self.now)) is None:
            self.wait()
        self.had.append(member)
        self.now += self.lengths[member]
        self.turns.used(member, self.lengths[member])
        if more:
            self.turns.ready(member, self.now)
        else:
            self.turns.pause(member, self.now)
        return member


def test_time_is_shared_and_not_the_number_of_turns() -> None:
    members = Members(hog=LONG, light=SHORT)
    members.ready(HOG, LIGHT)
    had = members.run(1_010)
    assert had.count(HOG) == pytest.approx(10, abs=1)


def test_equals_take_turns() -> None:
    members = Members(hog=1.0, light=1.0, other=1.0)
    members.ready(HOG, LIGHT, OTHER)
    assert members.run(9) == [HOG, LIGHT, OTHER] * 3


def test_who_comes_back_waits_for_no_second_turn_of_another_and_has_saved_nothing() -> None:
    members = Members(hog=LONG, light=SHORT)
    members.ready(LIGHT)
    members.turn(more=False)
    members.ready(HOG)
    members.run(50)
    members.ready(LIGHT)
    had = members.run(250)
    assert had.index(LIGHT) <= 1
    assert had.count(HOG) >= 2, "the five seconds in which the light one did nothing are not owed to it"


def test_one_alone_is_never_made_to_wait() -> None:
    members = Members(hog=LONG)
    for turn in range(5):
        members.ready(HOG)
        members.turn(more=False)
        assert members.now == pytest.approx((turn + 1) * LONG)
    assert members.turns.begin(members.now) is None


def test_who_paused_just_now_is_waited_for_at_his_own_cost() -> None:
    members = Members(hog=LONG, light=SHORT)
    members.ready(HOG, LIGHT)
    assert members.run(1) == [HOG]
    assert members.turn(more=False) == LIGHT
    assert members.turns.begin(members.now) is None
    patience_s = members.turns.patience_s
    assert patience_s == pytest.approx((LONG - SHORT) / PATIENCE)
    members.wait()
    members.ready(LIGHT)
    assert members.run(1) == [LIGHT], "it came at the last moment"
    before_hog = members.run(200).index(HOG)
    assert before_hog == pytest.approx((LONG - 2 * SHORT - patience_s) / SHORT, abs=2), "the wait was time that it used"


def test_who_does_not_come_back_is_not_waited_for_again() -> None:
    members = Members(hog=LONG, light=SHORT)
    members.ready(HOG, LIGHT)
    members.run(1)
    members.turn(more=False)
    assert members.run(3) == [HOG] * 3
    assert members.now == pytest.approx(4 * LONG + SHORT, abs=LONG / PATIENCE), "there was one wait at most"


def test_nobody_is_waited_for_who_used_as_much() -> None:
    members = Members(hog=LONG, other=LONG)
    members.ready(HOG, OTHER)
    members.run(2)
    assert members.turn(more=False) == HOG
    assert members.run(1) == [OTHER]
    assert members.now == pytest.approx(4 * LONG)


def test_who_has_left_has_no_turn_and_is_not_waited_for() -> None:
    members = Members(hog=LONG, light=SHORT, other=SHORT)
    members.ready(HOG, LIGHT, OTHER)
    members.run(1)
    members.turn(more=False)
    for member in (LIGHT, OTHER):
        members.turns.leave(member)
    members.turns.used(LIGHT, 1.0)
    assert members.run(2) == [HOG, HOG]
    assert members.now == pytest.approx(3 * LONG + SHORT)


def test_a_charge_for_what_a_turn_left_behind_counts_while_its_member_waits() -> None:
    members = Members(light=SHORT, other=SHORT)
    members.ready(LIGHT, OTHER)
    members.run(2)
    members.turns.used(LIGHT, 10 * SHORT)
    assert members.run(10) == [OTHER] * 10


def test_who_used_much_waits_no_longer_than_a_second_however_many_used_little() -> None:
    many = {f"light {number}": SHORT for number in range(30)}
    members = Members(hog=LONG, **many)
    members.ready(HOG, *many)
    began = [members.now - LONG for _ in range(5_000) if members.turn(more=True) == HOG]
    gaps = [later - earlier for earlier, later in pairwise(began)]
    assert len(gaps) >= 3
    assert max(gaps) <= LONG + MAX_WAIT_S + len(many) * SHORT
    assert min(gaps) >= LONG + MAX_WAIT_S - SHORT, "it is forgiven no earlier, and has its share otherwise"


# --- laws -----------------------------------------------------------------------------------------------------


LENGTHS = st.sampled_from([0.0001, 0.02, 1.0])
EVENTS = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 8), LENGTHS), min_size=1, max_size=20)


@settings(max_examples=200)  # those that matter are rare
@given(events=EVENTS)
def test_two_that_have_work_are_never_further_apart_than_a_turn_of_each(events: list[tuple[int, int, float]]) -> None:
    """Over every stretch in which both have work; the bound is that of start-time fair queueing."""
    turns: Turns[int] = Turns(max_wait_s=inf)
    longest: dict[int, float] = defaultdict(float)
    work: dict[int, list[float]] = defaultdict(list)
    apart: dict[tuple[int, int], tuple[float, float, float]] = defaultdict(lambda: (0.0, 0.0, 0.0))  # now, least, most
    now = 0.0

    def run_one() -> None:
        nonlocal now
        while (member := turns.begin(now)) is None:
            now += turns.patience_s
        length = work[member].pop(0)
        now += length
        longest[member] = max(longest[member], length)
        turns.used(member, length)
        for other in (other for other in work if other != member and work[other]):
            pair = min(member, other), max(member, other)
            ahead, least, most = apart[pair]
            ahead += length if member < other else -length
            apart[pair] = ahead, (least := min(least, ahead)), (most := max(most, ahead))
            assert most - least <= longest[member] + max(longest[other], work[other][0]) + 1e-9
        if work[member]:
            turns.ready(member, now)
        else:
            turns.pause(member, now)
            for pair in [pair for pair in apart if member in pair]:
                del apart[pair]

    for member, count, length in events:
        work[member] += [length] * count
        turns.ready(member, now)
        run_one()
    while turns.ready_members:
        run_one()
    assert not any(work.values()), "everything that was asked for has run"


@given(events=EVENTS)
def test_what_is_waited_before_a_turn_is_a_part_of_what_somebody_is_behind(
    events: list[tuple[int, int, float]],
) -> None:
    turns: Turns[int] = Turns()
    work: dict[int, int] = defaultdict(int)
    longest = now = 0.0
    for member, count, length in events:
        work[member] += count
        turns.ready(member, now)
        waited = 0.0
        while (begun := turns.begin(now)) is None:
            assert MIN_PATIENCE_S <= turns.patience_s <= MAX_PATIENCE_S
            now += turns.patience_s
            waited += turns.patience_s
            turns.waited(turns.patience_s)
        assert waited <= longest / PATIENCE + 1e-9
        work[begun] -= 1
        longest, now = max(longest, length + waited), now + length
        turns.used(begun, length)
        if work[begun]:
            turns.ready(begun, now)
        else:
            turns.pause(begun, now)
