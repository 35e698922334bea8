"""The committed results: every table and plot of the documents follows from them, byte for byte."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest

from dynamo_genie.bench.report import page_of, read_figures
from dynamo_genie.bench.study.records import read_study
from dynamo_genie.bench.study.report.document import files_of
from dynamo_genie.bench.study.report.pages import filled
from dynamo_genie.bench.study.training_modes import TRAINING_MODES
from dynamo_genie.modes import MODES

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "evaluation.md"
FIGURES = {path: record for path in sorted(RESULTS.glob("*.json")) if (record := read_figures(path)) is not None}
DOCUMENTS = sorted(set(RESULTS.glob("*.json")) - set(FIGURES))
"""Of the study; the others are figures of single measurements."""


def pinned(package: str) -> str:
    found = re.search(rf"^{package}==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_reports_follow_from_their_documents(path: Path) -> None:
    for package in ("matplotlib", "pillow"):
        if version(package) != pinned(package):
            pytest.skip(f"SKIPPED, ANOTHER {package.upper()}: plots were made with {pinned(package)}")
    differing = [
        name
        for name, content in files_of(read_study(path), path.stem).items()
        if not (path.parent / name).exists() or (path.parent / name).read_bytes() != content
    ]
    assert differing == []


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.stem)
def test_pages_of_figures_follow_from_their_documents(path: Path) -> None:
    assert path.with_suffix(".md").read_text(encoding="utf-8") == page_of(FIGURES[path], path.stem)


def test_tables_of_the_evaluation_follow_from_the_documents() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert filled(text, RESULTS) == text
    assert text.count("<!-- begin: ") == text.count("<!-- end -->") > 4


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_no_row_is_void_and_the_strong_baseline_is_never_left_out(path: Path) -> None:
    study = read_study(path)
    assert [(row.mode, row.void) for row in study.rows if row.void] == []
    if study.experiment == "training":
        assert {"local", "resident"} <= {row.mode for row in study.rows} <= set(TRAINING_MODES)
    elif study.experiment == "pipelines":
        assert {"one", "auto"} <= {row.mode for row in study.rows}
        assert "off" in {row.mode for row in study.rows if row.placement == "spread"} or not any(
            row.placement == "spread" for row in study.rows
        )
    elif study.experiment == "pipelines-predicted":
        assert {row.device for row in study.rows} == {"simulated"}
    elif study.experiment != "peers":
        assert {"local", "handle", "semantic"} <= {row.mode for row in study.rows} <= set(MODES)


def test_pages_name_nothing_of_the_machine_they_were_made_on() -> None:
    for path in (*DOCUMENTS, *FIGURES):
        assert re.search(r"/(root|home|tmp|work)\b", path.read_text(encoding="utf-8")) is None, path
