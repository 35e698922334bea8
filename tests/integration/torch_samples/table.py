"""Counts which of PyTorch's own samples equal eager through a backend, and prints the others. Knows no sample.

What fails under `aot_eager` too says nothing about the backend and is left out of the count.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")

FirstFailure = Callable[[Item, Any], "str | None"]
"""Why an entry differs from eager through a backend, in a line; None where it does not."""

ALL = os.environ.get("GENIE_TEST_ALL_SAMPLES") == "1"
"""Whether to run every sample of PyTorch's rather than the first few of each entry."""


def first(samples: Iterable[Item], count: int) -> Iterator[Item]:
    """Yield the first samples, or all of them where that is asked for."""
    return iter(samples) if ALL else islice(samples, count)


def one_line(error: Exception) -> str:
    """Return an error's class and the first line of what it says."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def assert_like_eager(
    entries: Mapping[str, Item],
    failure: FirstFailure[Item],
    backend: Any,
    *,
    share: float,
    known: Mapping[str, str],
) -> None:
    """Runs all entries and asserts that a share of them equals eager, and that the others are known.

    Args:
        entries: what to run, by the name that the table and `known` give it.
        failure: runs an entry through a backend; Dynamo starts afresh for each.
        backend: the backend under test.
        share: how many of those that `aot_eager` runs as eager does must do so here.
        known: the names of those that may differ, and why.
    """
    differ: dict[str, str] = {}
    not_counted: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, entry in entries.items():
            found = _run(failure, entry, backend)
            if found is None:
                continue
            reference = found if backend == "aot_eager" else _run(failure, entry, "aot_eager")
            (differ if reference is None else not_counted)[name] = found
    counted = len(entries) - len(not_counted)
    _print_table(f"differ under aot_eager too ({len(not_counted)} of {len(entries)}, not counted)", not_counted, known)
    _print_table(f"differ from eager ({len(differ)} of {counted})", differ, known)
    unexplained = {name: differ[name] for name in differ if name not in known}
    assert not unexplained, f"differ from eager and are not known to: {unexplained}"
    assert len(differ) <= (1 - share) * counted, f"{len(differ)} of {counted} differ from eager: {differ}"


def _run(failure: FirstFailure[Item], entry: Item, backend: Any) -> str | None:
    torch._dynamo.reset()
    return failure(entry, backend)


def _print_table(title: str, rows: Mapping[str, str], known: Mapping[str, str]) -> None:
    print(f"\n{title}")
    for name, reason in rows.items():
        print(f"  {name:<55} {known.get(name, '')} {reason[:160]}", flush=True)
