"""Fixtures for every test: a clean environment, a seeded torch, a fresh Dynamo. Imports no torch by itself."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator

import hypothesis
import pytest

# Before anything imports torch: several test processes share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Options of the shell that started the tests are none of theirs; GENIE_TEST_* steers the tests themselves.
for name in list(os.environ):
    if name.startswith("GENIE_") and not name.startswith("GENIE_TEST_"):
        del os.environ[name]

hypothesis.settings.register_profile("dev", derandomize=True, deadline=None, max_examples=50)
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, max_examples=200, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


def _reset_torch() -> None:
    """Seeds torch and empties Dynamo's caches, as far as the process has imported them."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
        # pytest would listen to this logger, which does not propagate, and torch would write all it knows of each
        # compilation for it: most of the time of a small test
        trace = logging.getLogger("torch.__trace")
        trace.propagate = True
        trace.handlers.clear()
    if "torch._dynamo" in sys.modules:
        sys.modules["torch._dynamo"].reset()


@pytest.fixture(autouse=True)
def fresh_torch() -> Iterator[None]:
    """Every test starts from the same seed and compiles from nothing, whatever ran before it."""
    _reset_torch()
    yield
    _reset_torch()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none, unless the CPU stands in for it in a rehearsal of `make gpu-check`."""
    if item.get_closest_marker("gpu") is None or os.environ.get("GPU_CHECK_REHEARSE") == "1":
        return
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")
