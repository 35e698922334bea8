"""A worker that is killed in the middle of a prompt in pieces: computed again elsewhere, or an error with a name."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import dynamo_genie
from dynamo_genie.errors import DaemonUnavailable, SessionLost, StaleHandleError
from tests.integration.fleets.fleets import Fleet, fleet_of
from tests.integration.fleets.planned import Plans, long_gpt2, prompt
from tests.integration.fleets.test_placement import remote_copy
from tests.integration.processes.test_failures import Outcome, cpu_seconds, root
from tests.integration.real_daemon import RealDaemon, eventually

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(os.environ.get("GENIE_TEST_BACKEND", "genie") != "genie", reason="about daemons"),
]

TOKENS = 2000


def generate(model: Any, ids: Tensor) -> Tensor:
    """Return the tokens here: what they are computed from is over by then."""
    return dynamo_genie.to_local(model.generate(input_ids=ids, max_new_tokens=4, do_sample=False))


def run_and_kill(call: Callable[[], Any], daemon: RealDaemon) -> Outcome:
    """Run a call, and kill a daemon's worker once it computes for it; again where the call was over by then."""
    for _ in range(5):
        before = cpu_seconds(daemon.worker())
        outcome = Outcome(call)
        assert eventually(lambda before=before: cpu_seconds(daemon.worker()) > before + 0.05), "it does not compute"
        daemon.kill_worker()
        if outcome.value is None:
            return outcome
        call()  # at another worker
    raise AssertionError("every call was over before the worker was killed")


def of_stage(fleet: Fleet, plans: Plans, stage: str) -> RealDaemon:
    """Return the daemon that has the first or the last stage of the prompt; the last one then decodes."""
    (planned,) = plans.in_pieces
    endpoint = planned.devices[0 if stage == "first" else -1]
    return fleet.daemons[fleet.endpoints.index(endpoint)]


@pytest.mark.parametrize("stage", ["last", pytest.param("first", marks=pytest.mark.slow)])
def test_a_prompt_in_pieces_goes_on_at_another_worker(plans: Plans, stage: str) -> None:
    model, ids = long_gpt2(n_layer=8), prompt(TOKENS)
    with fleet_of("0", "0") as fleet, torch.no_grad():
        expected = generate(model, ids)
        remote = remote_copy(fleet, model)
        assert torch.equal(generate(remote, ids), expected)  # compiled and placed; what is killed is a prompt alone
        recoveries = dynamo_genie.stats()["total"]["recoveries"]
        outcome = run_and_kill(lambda: generate(remote, ids), of_stage(fleet, plans, stage))
        assert outcome.wait() is None
        assert torch.equal(outcome.value, expected)
        assert dynamo_genie.stats()["total"]["recoveries"] > recoveries
        assert torch.equal(generate(remote, ids), expected)


def test_without_recovery_a_prompt_in_pieces_is_an_error_with_a_name(plans: Plans) -> None:
    model, ids = long_gpt2(n_layer=8), prompt(TOKENS)
    with fleet_of("0", "0") as fleet, torch.no_grad():
        expected = generate(model, ids)
        remote = remote_copy(fleet, model, recovery="off")
        assert torch.equal(generate(remote, ids), expected)
        error = root(run_and_kill(lambda: generate(remote, ids), of_stage(fleet, plans, "last")).wait())
        assert isinstance(error, SessionLost | DaemonUnavailable | StaleHandleError), repr(error)
        assert torch.equal(generate(remote, ids), expected), "the next call works, in new sessions"
