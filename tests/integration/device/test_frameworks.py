"""Trainers of others train on the device as on the CPU, by what the README says to write."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

from tests.integration.real_daemon import run_interpreter

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.environ.get("GENIE_TEST_BACKEND", "genie") != "genie", reason="about tensors in daemons"),
]

NEEDED = {
    "transformers_trainer": ("transformers", "accelerate"),
    "accelerate_loop": ("accelerate",),
    "lightning_trainer": ("lightning",),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", NEEDED)
def test_a_trainer_gives_what_it_gives_on_the_cpu(name: str) -> None:
    missing = [package for package in NEEDED[name] if find_spec(package) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed: pip install 'dynamo_genie[programs]'")
    here, there = (came_of(name, device) for device in ("cpu", "remote_accelerator:0"))
    assert here == there


def came_of(name: str, device: str) -> str:
    printed = run_interpreter("-W", "ignore", "-m", "tests.integration.device.frameworks", name, device, limit_s=140)
    return next(line for line in printed.splitlines() if line.startswith("came:"))
