"""Tensors on `remote_accelerator`, modules that live there, and training: as on the CPU, to the bit."""

from __future__ import annotations

import os
from collections.abc import Mapping

import pytest

from tests.integration.real_daemon import LIMIT_S, RealDaemon, run_interpreter

pytestmark = pytest.mark.skipif(
    os.environ.get("GENIE_TEST_BACKEND", "genie") != "genie", reason="about tensors in daemons"
)


@pytest.mark.timeout(240)
def test_all_checks_hold_in_a_process_with_the_device() -> None:
    run("tests.integration.device.checks", limit_s=LIMIT_S)


@pytest.mark.timeout(240)
def test_what_pytorch_composes_by_device_gives_the_bits_of_the_cpu() -> None:
    run("tests.integration.device.same_bits", limit_s=LIMIT_S)


@pytest.mark.timeout(240)
def test_modules_on_two_devices_train_together() -> None:
    with RealDaemon() as first, RealDaemon() as second:
        daemons = {"GENIE_DAEMONS": f"{first.endpoint},{second.endpoint}"}
        run("tests.integration.device.several", limit_s=LIMIT_S, environ=daemons)


def run(module: str, *arguments: str, limit_s: float, environ: Mapping[str, str] | None = None) -> None:
    """Run a module in a process of its own; it must end well and in time."""
    print(run_interpreter("-W", "ignore", "-m", module, *arguments, environ=environ, limit_s=limit_s))
