"""PyTorch's own samples of operators, modules and optimizers on `remote_accelerator`: as on the CPU, to the bit."""

from __future__ import annotations

import os

import pytest

from tests.integration.device.test_device import run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(os.environ.get("GENIE_TEST_BACKEND", "genie") != "genie", reason="about tensors in daemons"),
]
LIMIT_S = 580.0
SWEEP_LIMIT_S = 1180.0
ALL_SAMPLES = {"GENIE_TEST_ALL_SAMPLES": "1"}


DTYPES = "float32 float64 bfloat16 float16 complex64 complex128 int64 int32 int16 int8 uint8 bool".split()


def test_operators_give_the_bits_of_the_cpu_in_all_dtypes() -> None:
    run("tests.integration.device.operators", *DTYPES, limit_s=LIMIT_S)


def test_gradients_of_operators_have_the_bits_of_the_cpu() -> None:
    run("tests.integration.device.operators", "float32-backward", limit_s=LIMIT_S)


def test_modules_give_the_bits_of_the_cpu() -> None:
    run("tests.integration.device.modules", "train", "eval", limit_s=LIMIT_S)


def test_optimizers_take_the_steps_of_the_cpu() -> None:
    run("tests.integration.device.optimizers", "eager", limit_s=LIMIT_S)


@pytest.mark.sweep
@pytest.mark.parametrize("dtype", ["float32", "float32-backward", "bfloat16"])
def test_all_samples_of_operators_give_the_bits_of_the_cpu(dtype: str) -> None:
    run("tests.integration.device.operators", dtype, limit_s=SWEEP_LIMIT_S, environ=ALL_SAMPLES)


@pytest.mark.sweep
@pytest.mark.parametrize("way", ["eager", "compiled"])
def test_all_samples_of_optimizers_take_the_steps_of_the_cpu(way: str) -> None:
    run("tests.integration.device.optimizers", way, limit_s=SWEEP_LIMIT_S, environ={"GENIE_TEST_ALL_SAMPLES": "1"})
