"""Stage b: the tests that need a GPU, each written down as it ends."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from dynamo_genie.bench.gpu_check.outcome import Outcome
from dynamo_genie.bench.gpu_check.scale import Scale
from dynamo_genie.bench.report import Figure
from dynamo_genie.errors import GenieError

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "integration" / "processes"
TESTS = (FOLDER / "test_gpu.py", FOLDER / "test_gpu_capture.py")


class TestNotes:
    """A plugin of pytest that writes down how each test went."""

    __test__ = False

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._states: dict[str, str] = {}
        self._seconds: Counter[str] = Counter()

    @property
    def counts(self) -> Counter[str]:
        """How many tests went which way."""
        return Counter(self._states.values())

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Hear how a test's setup, its call or its teardown went."""
        name = report.nodeid.partition("::")[2]
        self._seconds[name] += report.duration
        if report.when == "call" or report.outcome != "passed":
            self._states[name] = report.outcome
        if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
            self._outcome.add(note=f"skipped {name}: {report.longrepr[2].removeprefix('Skipped: ')}")
        if report.when == "teardown":
            tests = {key: [state, round(self._seconds[key], 2)] for key, state in self._states.items()}
            self._outcome.add(details={"tests": tests})


def run_device_tests(scale: Scale, outcome: Outcome) -> None:
    """Run them; on the CPU those that can, as `GPU_CHECK_REHEARSE` tells them.

    Raises:
        GenieError: There are no tests here, as in an installed package, or pytest is missing.
    """
    if not FOLDER.exists():
        raise GenieError(f"{FOLDER} is missing; the tests come with a checkout, not with an installed package")
    try:
        import pytest
    except ImportError as error:
        raise GenieError(f"{error}: pip install pytest hypothesis") from None
    notes = TestNotes(outcome)
    code = pytest.main(
        [
            "-m",
            "gpu",
            "-v",
            "-p",
            "no:cacheprovider",
            f"--rootdir={ROOT}",
            "-c",
            str(ROOT / "pyproject.toml"),
            *map(str, TESTS),
        ],
        plugins=[notes],
    )
    passed, failed = notes.counts["passed"], notes.counts["failed"]
    outcome.add([Figure("tests that passed", passed, "", passed + failed, None, "all", failed == 0 < passed)])
    if code and not failed:
        raise GenieError(f"pytest ended with exit code {int(code)} and no failed test; the log says why")
