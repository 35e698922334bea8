"""Runs TorchCTS, levels 1 to 4, against `remote_accelerator`, and holds it to the ledger; in a process of its own.

    python -m tests.integration.device.conformance.run [--part 1/8] operators training ...
    python -m tests.integration.device.conformance.run --again 'operators/test_norm.py::test_batch_norm[dtype1]' ...
    GENIE_TEST_WRITE_LEDGER=1 python -m tests.integration.device.conformance.run ...

What is not as the ledger says is run again, in another process and without all the others, and counts if it is not then
either: where NaN meets complex numbers, what a kernel makes of them depends on where its arguments lie in memory.

The third form rewrites the ledger: what passes is taken out, and what fails anew is put in, for someone to find out
why. Of torch, what TorchCTS was made for is older; so pip would not install it beside ours, and `make venv` does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
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
from tests.integration.device.parts import part_of

LEVEL = "4"
ROOT = Path(__file__).parents[4]
WRITE = "GENIE_TEST_WRITE_LEDGER"


def versions() -> str:
    """Return what the names in a ledger depend on."""
    processor = torch.backends.cpu.get_cpu_capability()
    return f"torch {torch.__version__.partition('+')[0]}, torchcts {metadata.version('torchcts')}, {processor}"


class Outcomes:
    """A plugin of pytest: keeps what failed and what passed, and runs what was chosen of what there is."""

    def __init__(self, chosen: Callable[[str], bool]) -> None:
        self._chosen = chosen
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
        items[:] = [item for item in items if self._chosen(_name(item.nodeid))]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = _name(report.nodeid)
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            how = (str(crash.message if crash else report.longrepr) or "?").splitlines()[0]
            self.failed.setdefault(name, how[:300])
            self.passed.discard(name)
        elif report.when == "call" and report.passed and name not in self.failed:
            self.passed.add(name)

    def gone(self, ledger: Ledger, suites: Sequence[str]) -> list[str]:
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


def run(suites: Sequence[str], chosen: Callable[[str], bool], traceback: str = "no") -> Outcomes:
    """Run what is chosen, by its name, of suites, or of files of suites."""
    import torchcts

    torch.set_num_threads(1)
    make_quick()
    outcomes = Outcomes(chosen)
    root = Path(torchcts.__file__).parent
    os.chdir(Path(__file__).parent)  # where the manifest is
    with tempfile.TemporaryDirectory() as results:
        options = [
            "-q", f"--tb={traceback}", "--no-header", "--show-capture=no", "-p", "no:cacheprovider", "-c", os.devnull,
            "--rootdir", str(root), "--level", LEVEL, "--non-interactive", "--memory-mode", "performance",
            "--adaptive-isolation", "off", "--results-dir", results, "--disable-warnings", "-r", "N",
        ]  # fmt: skip
        status = pytest.main([*options, *(str(root / suite) for suite in suites)], plugins=[outcomes])
    assert status in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED), status
    dynamo_genie.shutdown()
    return outcomes


def run_again(names: Sequence[str]) -> int:
    """Run some tests by their names, and show how they fail; return how many are not as listed."""
    files = sorted({name.partition("::")[0] for name in names})
    outcomes = run(files, frozenset(names).__contains__, traceback="short")
    wrong = Ledger.read(FILE.read_text(encoding="utf-8")).wrong(outcomes.failed, outcomes.passed)
    print(f"{len(wrong)} of {len(names)} not as listed again", *wrong.values(), sep="\n")
    return min(len(wrong), 100)


def main(arguments: list[str]) -> int:
    """Run suites; return how many tests are twice not as the ledger says, or are listed and not there."""
    if arguments[:1] == ["--again"]:
        return run_again(arguments[1:])
    part, suites = part_of(arguments)
    ledger = Ledger.read(FILE.read_text(encoding="utf-8"))
    outcomes = run(suites, part.has)
    if os.environ.get(WRITE) == "1":
        after = ledger.after(outcomes.failed, outcomes.passed)
        FILE.write_text(Ledger(versions(), after.reasons).text(), encoding="utf-8")
        return 0
    wrong, gone = ledger.wrong(outcomes.failed, outcomes.passed), outcomes.gone(ledger, suites)
    print(
        f"{len(outcomes.passed)} passed, {len(outcomes.failed)} failed, {len(wrong)} not as listed",
        *wrong.values(),
        sep="\n",
    )
    print(*(f"{name} is listed and there is no such test" for name in gone), sep="\n")
    if not wrong:
        return min(len(gone), 100)
    sys.stdout.flush()
    again = subprocess.run(
        [sys.executable, "-m", "tests.integration.device.conformance.run", "--again", *wrong], cwd=ROOT
    )
    return min(again.returncode + len(gone), 100)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
