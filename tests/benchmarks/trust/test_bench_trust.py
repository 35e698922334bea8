"""`genie bench recovery` and `genie bench load`, small: kills are survived, sessions stay, nothing is left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.study.test_bench_study import bench, finished

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def measured(tmp_path: Path, *arguments: str) -> tuple[dict[str, Any], dict[str, float]]:
    out, _ = finished(bench(*arguments, "--json", "out.json", cwd=tmp_path))
    assert "measured" in out
    record = json.loads((tmp_path / "out.json").read_text())
    return record, {figure["name"]: figure["value"] for figure in record["figures"]}


@pytest.mark.parametrize(("kills", "more"), [(8, ("--standby",)), (1, ("--supervisor",))])
def test_every_kill_is_survived_and_timed(tmp_path: Path, kills: int, more: tuple[str, ...]) -> None:
    works = ["gpt2 static-sampled", "training"][:kills]
    record, figures = measured(tmp_path, "recovery", "--kills", str(kills), "--works", ",".join(works), *more)
    assert figures[f"kills after which all was equal, of {kills}"] == kills
    assert [work["name"] for work in record["works"]] == works
    assert [work["kills"] for work in record["works"]] == [kills // len(works)] * len(works)
    assert all(len(seconds) == work["kills"] for work in record["works"] for seconds in work["seconds"].values())
    part, whole = figures["until another worker let the session in, max"], figures["kill to next token, max"]
    assert 0 < part < whole


@pytest.mark.sweep
def test_sessions_come_compute_stay_and_leave_nothing(tmp_path: Path) -> None:
    record, figures = measured(tmp_path, "load", "--sessions", "40", "--clients", "2", "--soak-s", "8")
    assert figures["sessions lost"] == 0
    assert figures["supervisor: descriptors left behind"] <= 0
    assert figures["worker: descriptors left behind"] <= 0
    assert figures["soak: sessions that came and went"] > 0
    assert len(record["soak"]["rss_kib"]["worker"]) == len(record["soak"]["at_s"]) > 2
