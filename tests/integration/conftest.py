"""What every integration test shares: the backend under test, one thread, and a fresh Dynamo."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

Compile = Callable[..., Any]

BACKEND_NAME = os.environ.get("GENIE_TEST_BACKEND", "genie")
"""The backend to test. `aot_eager` checks the tests themselves: what fails there is a fault of the test."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "timeout(seconds): limit of one test, for pytest-timeout where it is installed")


@pytest.fixture(scope="session")
def backend_name() -> str:
    return BACKEND_NAME


@pytest.fixture(scope="session")
def backend(backend_name: str) -> Any:
    """What to hand to `torch.compile(..., backend=)`."""
    if backend_name != "genie":
        return backend_name
    from dynamo_genie.backend import genie

    return genie


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """One thread on this side; the daemon takes the number from the environment."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    """No compiled code, counter or generator state leaks from one test into the next."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(0)
    yield
    torch._dynamo.reset()


@pytest.fixture
def compiled(backend: Any) -> Compile:
    """`compiled(f, **options)` is `torch.compile(f, backend=<the backend under test>, **options)`."""

    def compile_with_backend(target: Any, **options: Any) -> Any:
        return torch.compile(target, backend=backend, **options)

    return compile_with_backend
