"""Runs TorchCTS, levels 1 to 4, against `remote_accelerator`, and holds it to the ledger; in a process of its own.

    python -m tests.integration.device.conformance.run [--part 1/8] operators training ...
    GENIE_TEST_WRITE_LEDGER=1 python -m tests.integration.device.conformance.run ...

The second form rewrites the ledger: what passes is taken out, and what fails anew is put in, for someone to find out
why. Of torch, what TorchCTS was made for is older; so pip would not install it beside ours, and `make venv` does.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing._internal import common_utils
from torch.testing._internal.opinfo import core

import dynamo_genie
from tests.integration.device.conformance.ledger import FILE, Ledger
from tests.integration.device.parts import Part, part_of

LEVEL = "4"
WRITE = "GENIE_TEST_WRITE_LEDGER"


def versions() -> str:
    """Return what the names in a ledger depend on."""
    return f"torch {torch.__version__.partition('+')[0]}, torchcts {metadata.version('torchcts')}"


class Outcomes:
    """A plugin of pytest: keeps what failed and what passed, and runs a part of what there is."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self.names: set[str] = set()
        self.failed: dict[str, str] = {}
        self.passed: set[str] = set()

    def pytest_plugin_registered(self, plugin: Any) -> None:
        """Keep TorchCTS from writing all results to a file after each test, and from asking the device beforehand."""
        if Path(str(getattr(plugin, "__file__", ""))).parts[-2:] == ("torchcts", "conftest.py"):
            plugin.flush_results_to_disk = lambda: None
            plugin._run_declared_diagnostic_probes = lambda *args, **kwargs: []

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self.names = {_name(item.nodeid) for item in items}
        items[:] = [item for item in items if self._part.has(_name(item.nodeid))]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = _name(report.nodeid)
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            how = (str(crash.message if crash else report.longrepr) or "?").splitlines()[0]
            self.failed.setdefault(name, how[:300])
            self.passed.discard(name)
        elif report.when == "call" and report.passed and name not in self.failed:
            self.passed.add(name)

    def gone(self, ledger: Ledger, suites: list[str]) -> list[str]:
        """Return what is listed of these suites and was not found in them."""
        return [
            name
            for name in ledger.reasons
            if any(name.startswith(suite) for suite in suites) and name not in self.names
        ]


def _name(node: str) -> str:
    return node.rsplit("torchcts/", 1)[-1]


def make_quick() -> None:
    """Answer once what TorchCTS asks at each test: which versions it knows, and which test of unittest runs."""
    from torchcts import op_metadata

    looked_up: Callable[[Any], Any] = op_metadata._validation_metadata
    known = cache(lambda: looked_up(None))

    def asked_once(data: Any) -> Any:
        return known() if data is None or data is op_metadata.load_op_metadata() else looked_up(data)

    op_metadata._validation_metadata = asked_once
    common_utils.extract_test_fn = core.extract_test_fn = lambda: None


def run(suites: list[str], part: Part) -> Outcomes:
    """Run suites, or files of suites."""
    import torchcts

    make_quick()
    outcomes = Outcomes(part)
    root = Path(torchcts.__file__).parent
    os.chdir(Path(__file__).parent)  # where the manifest is
    with tempfile.TemporaryDirectory() as results:
        options = [
            "-q", "--tb=short", "--no-header", "--show-capture=no", "-p", "no:cacheprovider", "-c", os.devnull,
            "--rootdir", str(root), "--level", LEVEL, "--non-interactive", "--memory-mode", "performance",
            "--adaptive-isolation", "off", "--results-dir", results, "--disable-warnings", "-r", "N",
        ]  # fmt: skip
        status = pytest.main([*options, *(str(root / suite) for suite in suites)], plugins=[outcomes])
    assert status in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED), status
    return outcomes


def main(arguments: list[str]) -> int:
    """Run suites; return how many tests are not as the ledger says."""
    torch.set_num_threads(1)
    part, suites = part_of(arguments)
    ledger = Ledger.read(FILE.read_text(encoding="utf-8"))
    outcomes = run(suites, part)
    dynamo_genie.shutdown()
    if os.environ.get(WRITE) == "1":
        after = ledger.after(outcomes.failed, outcomes.passed)
        FILE.write_text(Ledger(versions(), after.reasons).text(), encoding="utf-8")
        return 0
    wrong = ledger.wrong(outcomes.failed, outcomes.passed, outcomes.gone(ledger, suites))
    print(f"{len(outcomes.passed)} passed, {len(outcomes.failed)} failed, {len(wrong)} not as listed", *wrong, sep="\n")
    return min(len(wrong), 100)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
