"""What is measured of pipelines, and when a row counts for nothing."""

from __future__ import annotations

import pytest

from dynamo_genie.bench.pipelines.orders import WayTaken
from dynamo_genie.bench.pipelines.plan import WAYS, Repeats, Setting, settings_of
from dynamo_genie.bench.pipelines.runner import rows_of
from dynamo_genie.errors import OptionError

SETTING = Setting("loopback", "tiny-gpt2", 64, 2, watched=False, ways=WAYS["prefill"])
REPEATS = Repeats(measured=2)


def taken(*answers: str, error: str = "") -> WayTaken:
    return WayTaken((0.2, 0.1), (0.01, 0.02), (0.03,), peer_bytes={"activation": 8}, answers=answers, error=error)


def test_every_network_has_every_call_and_only_the_longest_prompt_of_the_first_goes_on() -> None:
    settings = settings_of(("1gbit", "10gbit"), ("gpt2-8k", "vit-base"), (128, 512), 32, 16, ("gathered",))
    assert [(each.network, each.model, each.rows, each.tokens, each.watched) for each in settings] == [
        ("1gbit", "gpt2-8k", 128, 0, False),
        ("1gbit", "gpt2-8k", 512, 16, True),
        ("1gbit", "vit-base", 32, 0, True),
        ("10gbit", "gpt2-8k", 128, 0, False),
        ("10gbit", "gpt2-8k", 512, 0, False),
        ("10gbit", "vit-base", 32, 0, False),
    ]
    assert [way.label for way in settings[0].ways] == ["one", "auto/gathered"]
    assert not any(each.spread for each in settings)


def test_what_nobody_knows_is_refused_with_what_there_is() -> None:
    with pytest.raises(OptionError, match="--models: gpt9 unknown; there are gpt2-8k"):
        settings_of(("loopback",), ("gpt9",), (8,), 8, 0, ())
    with pytest.raises(OptionError, match="--layouts: both unknown; there are gathered, spread"):
        settings_of(("loopback",), ("gpt2-8k",), (8,), 8, 0, ("both",))


def test_an_answer_that_is_not_that_of_one_daemon_makes_rows_void() -> None:
    good, other, short = taken("a", "b"), taken("a", "c"), taken("a")
    rows = rows_of(SETTING, (good, good, other, short), REPEATS, "loopback")
    assert [(row.phase, row.mode, row.placement, row.void) for row in rows[:4]] == [
        ("prefill", "one", "", ""),
        ("prefill", "auto", "gathered", ""),
        ("prefill", "off", "spread", "answer 1 of 2 is not that of one daemon"),
        ("prefill", "auto", "spread", "1 answers, and 2 with one daemon"),
    ]
    assert [row.phase for row in rows] == ["prefill"] * 4 + ["after"] * 4 + ["decode"] * 4
    assert [bool(row.void) for row in rows] == [False, False, True, True] * 3


def test_a_way_that_fails_has_no_row_and_rows_say_what_they_have_rows_of() -> None:
    rows = rows_of(SETTING, (taken("a"), taken(error="no"), taken("a"), taken("a")), REPEATS, "loopback")
    assert [row.mode for row in rows if row.phase == "prefill"] == ["one", "off", "auto"]
    assert {(row.prompt, row.batch) for row in rows} == {(64, 1)}
    images = Setting("loopback", "tiny-vit", 8, 0, watched=False, ways=WAYS["vision"])
    assert {(row.prompt, row.batch) for row in rows_of(images, (taken("a"), taken("a")), REPEATS, "loopback")} == {
        (0, 8)
    }
