"""TorchCTS, levels 1 to 4, against `remote_accelerator`: all passes but what the ledger lists, and that must fail."""

from __future__ import annotations

import importlib.util
import os

import pytest

from tests.integration.device.conformance.ledger import FILE, Ledger
from tests.integration.device.test_device import run

SUITES = "autograd dtypes errors operators rng serialization training generated".split()
OPINFO = "opinfo/test_opinfo_forward.py", "opinfo/test_opinfo_errors.py"
BACKWARD = "opinfo/test_opinfo_backward.py"

runs_torchcts = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(importlib.util.find_spec("torchcts") is None, reason="TorchCTS is not installed: `make venv`"),
    pytest.mark.skipif(os.environ.get("GENIE_TEST_BACKEND", "genie") != "genie", reason="about tensors in daemons"),
]


def with_torchcts(function: object) -> object:
    for mark in runs_torchcts:
        function = mark(function)
    return function


def check(*arguments: str, limit_s: float) -> None:
    from tests.integration.device.conformance.run import versions

    ledger = Ledger.read(FILE.read_text(encoding="utf-8"))
    if versions() != ledger.versions:
        pytest.skip(f"the ledger is of {ledger.versions}, and this is {versions()}")
    run("tests.integration.device.conformance.run", *arguments, limit_s=limit_s)


@with_torchcts
def test_conformance_of_every_second_test() -> None:
    check("--part", "1/2", *SUITES, limit_s=580)


@with_torchcts
def test_conformance_of_a_part_of_the_samples_of_operators() -> None:
    check("--part", "1/16", *OPINFO, limit_s=580)


@with_torchcts
@pytest.mark.sweep
def test_conformance_but_for_samples_of_operators() -> None:
    check(*SUITES, limit_s=1180)


@with_torchcts
@pytest.mark.sweep
def test_conformance_of_all_samples_of_operators() -> None:
    check(*OPINFO, limit_s=1780)


@with_torchcts
@pytest.mark.sweep
def test_conformance_of_gradients_of_operators() -> None:
    check(BACKWARD, limit_s=1780)


def test_the_ledger_is_strict() -> None:
    ledger = Ledger.read("# versions\n\n# why\na\nb\n")
    assert ledger.wrong({"a": "how"}, ["c"]) == {}
    assert ledger.wrong({"a": "how", "d": "how"}, ["b"]) == {
        "d": "d fails and is not listed: how",
        "b": "b is listed and passes",
    }
    assert ledger.after(["a", "d"], ["b"]).text() == "# versions\n\n# not looked into yet\nd\n\n# why\na\n"
    assert Ledger.read(ledger.text()) == ledger
    unsteady = Ledger.read("# versions\n\n# unsteady: why\na\n")
    assert unsteady.wrong({"a": "how"}, []) == unsteady.wrong({}, ["a"]) == {}
    assert unsteady.after([], ["a"]) == unsteady
    for wrong in ("# versions\n\na\n", "# versions\n\n# why\na\na\n"):
        with pytest.raises(AssertionError):
            Ledger.read(wrong)
