"""Training on `remote_accelerator`, eager and compiled: losses, parameters and what optimizers keep as on the CPU."""

from __future__ import annotations

import os

import pytest

from tests.integration.device.test_device import run

pytestmark = pytest.mark.skipif(
    os.environ.get("GENIE_TEST_BACKEND", "genie") != "genie", reason="about tensors in daemons"
)
LIMIT_S = 580.0


@pytest.mark.timeout(240)
def test_a_model_trains_for_twenty_steps_as_on_the_cpu() -> None:
    run("tests.integration.device.training", "vit_sgd", limit_s=220)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_models_optimizers_and_features_of_loops_train_as_on_the_cpu() -> None:
    run("tests.integration.device.training", limit_s=LIMIT_S)
