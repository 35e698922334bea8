"""Counts which of PyTorch's own samples are right through a backend, and prints the others. Knows no sample.

Right is what is bitwise as in eager or, where AOTAutograd computes otherwise, as under `aot_eager`. What raises in
eager or under `aot_eager` says nothing about the backend and is left out of the count.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar

import torch

from tests.integration.compare import difference

Item = TypeVar("Item")

Attempt = Callable[[Any], Any]
"""Runs one sample through a backend, or in eager for None, and returns all that can be seen afterwards."""

ALL = os.environ.get("GENIE_TEST_ALL_SAMPLES") == "1"
"""Whether to run every sample of PyTorch's rather than the first few of each entry."""


def first(samples: Iterable[Item], count: int) -> Iterator[Item]:
    """Yield the first samples, or all of them where that is asked for."""
    return iter(samples) if ALL else islice(samples, count)


def one_line(error: Exception) -> str:
    """Return an error's class and the first line of what it says; of one while compiling, those of its cause."""
    error = getattr(error, "inner_exception", error)
    return f"{type(error).__name__}: {error}".splitlines()[0]


def assert_like_eager(
    entries: Mapping[str, Iterable[Attempt]],
    backend: Any,
    *,
    share: float,
    known: Mapping[str, str],
) -> None:
    """Runs all entries and asserts that a share of them is right, and that the others are known.

    Args:
        entries: the samples of each entry, by the name that the table and `known` give it.
        backend: the backend under test.
        share: how many of the entries that `aot_eager` runs must be right.
        known: the names of those that may differ, and why.
    """
    differ: dict[str, str] = {}
    not_counted: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, attempts in entries.items():
            try:
                found = first_failure(attempts, backend)
            except NoReference as error:
                not_counted[name] = str(error)
                continue
            if found is not None:
                differ[name] = found
                print(f"  {name:<55} {known.get(name, '')} {found[:160]}", flush=True)
    counted = len(entries) - len(not_counted)
    print(f"\n{len(differ)} of {counted} differ; {len(not_counted)} more say nothing: {not_counted}", flush=True)
    unexplained = {name: differ[name] for name in differ if name not in known}
    assert not unexplained, f"differ and are not known to: {unexplained}"
    assert len(differ) <= (1 - share) * counted, f"{len(differ)} of {counted} differ: {differ}"


class NoReference(Exception):
    """No sample of an entry runs in eager and under `aot_eager`, so that it says nothing about the backend."""


def first_failure(attempts: Iterable[Attempt], backend: Any) -> str | None:
    """Why the first sample that is wrong is wrong, in a line; None when all are right."""
    useless: list[str] = []
    useful = 0
    for attempt in attempts:
        try:
            found = _failure(attempt, backend)
        except NoReference as error:
            useless.append(str(error))
            continue
        useful += 1
        if found is not None:
            return found
    if useless and not useful:
        raise NoReference(useless[0])
    return None


def _failure(attempt: Attempt, backend: Any) -> str | None:
    """Why a backend shows neither what eager shows nor what `aot_eager` does; None when it shows one of them."""
    expected = _reference(attempt, None)
    try:
        actual = _fresh(attempt, backend)
        found = difference(actual, expected)
    except Exception as error:  # noqa: BLE001 - any error is a line of the table
        _reference(attempt, "aot_eager")
        return one_line(error)
    if found is None or difference(actual, _reference(attempt, "aot_eager")) is None:
        return None
    return found


def _fresh(attempt: Attempt, backend: Any) -> Any:
    """Run a sample from an empty cache: past Dynamo's limit for one function, another sample would not be compiled."""
    torch._dynamo.reset()
    return attempt(backend)


def _reference(attempt: Attempt, backend: str | None) -> Any:
    try:
        return _fresh(attempt, backend) if backend is not None else attempt(None)
    except Exception as error:
        raise NoReference(f"{backend or 'eager'} raises {one_line(error)}") from error
