"""Random lives of a session: allocate, upload, call, mutate, alias, free, disconnect, kill, expire."""

from __future__ import annotations

import logging
from collections import Counter

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.runtime.recovery.session_model import SessionModel

RULES = {
    "allocate", "upload", "call", "mutate", "alias", "free", "read", "fail",
    "disconnect", "duplicate", "kill", "expire",
}  # fmt: skip


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Say nothing of each death."""
    caplog.set_level(logging.CRITICAL, "dynamo_genie")


def run_lives(lives: int, seed_: int) -> Counter[str]:
    """Run so many machines of 50 rules each; return how often each rule ran."""
    model = seed(seed_)(type("SeededSessionModel", (SessionModel,), {"ran": Counter()}))
    run_state_machine_as_test(
        model,
        settings=settings(
            max_examples=lives, stateful_step_count=50, deadline=None, database=None, derandomize=False,
            suppress_health_check=list(HealthCheck), print_blob=True,
        ),
    )  # fmt: skip
    return model.ran  # type: ignore[no-any-return]


def test_no_life_of_a_session_changes_a_value() -> None:
    ran = run_lives(15, 0)
    assert ran.keys() == RULES
    assert ran.total() >= 500


@pytest.mark.slow
@pytest.mark.parametrize("seed_", [1, *(pytest.param(seed, marks=pytest.mark.sweep) for seed in range(2, 5))])
def test_ten_thousand_steps_of_lives_change_no_value(seed_: int) -> None:
    ran = run_lives(75, seed_)
    print(f"seed {seed_}: {ran.total()} rules, {dict(ran)}")
    assert ran.total() >= 2_500
