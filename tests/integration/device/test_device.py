"""Tensors on `remote_accelerator`, modules that live there, and training: as on the CPU, to the bit."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.integration.real_daemon import LIMIT_S, REPOSITORY, environment

pytestmark = pytest.mark.skipif(
    os.environ.get("GENIE_TEST_BACKEND", "genie") != "genie", reason="about tensors in daemons"
)


@pytest.mark.timeout(240)
def test_all_checks_hold_in_a_process_with_the_device() -> None:
    command = [sys.executable, "-W", "ignore", "-m", "tests.integration.device.checks"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=LIMIT_S, env=environment(), cwd=REPOSITORY, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
