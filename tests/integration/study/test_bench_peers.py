"""The comparison with other systems: the same tokens everywhere, and what is absent is named."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import MappingProxyType

import pytest

from dynamo_genie.bench.peers import comparison
from dynamo_genie.bench.peers.systems import SYSTEMS, DecodeWork, System, missing
from dynamo_genie.bench.study.records import read_study
from tests.integration.study.test_bench_study import bench, finished


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_system_that_is_there_decodes_the_same_tokens(tmp_path: Path) -> None:
    out, _ = finished(bench("peers", "--quick", cwd=tmp_path))
    study = read_study(tmp_path / "peers.json")
    absent = [name for name in SYSTEMS if missing(name)]
    assert [gap.what for gap in study.gaps] == absent
    assert [row.mode for row in study.rows] == [name for name in SYSTEMS if name not in absent]
    assert [row.void for row in study.rows] == [""] * len(study.rows)
    assert {row.steps for row in study.rows} == {20}
    assert study.complete
    assert "genie adds" in out


def test_a_system_that_is_not_installed_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else find(name, *rest))
    assert missing("ray actor") == "ray is not installed: pip install 'dynamo_genie[peers]'"
    assert missing("local") == ""


def test_the_echo_is_not_held_to_the_tokens() -> None:
    assert comparison.ECHO in SYSTEMS
    assert comparison.GENIE in SYSTEMS
    assert "ray" not in sys.modules  # nothing of a peer is imported before it is used


class _Counting:
    """Counts on from the token; one that strays gives a wrong token in the first repeat, its fourth beginning."""

    def __init__(self, *, strays: bool) -> None:
        self._strays = strays
        self._begun = 0

    def begin(self) -> int:
        self._begun += 1
        return 1

    def step(self, token: int) -> int:
        return token + 2 if self._strays and self._begun == 4 else token + 1


def _opener(*, strays: bool) -> Callable[[DecodeWork], AbstractContextManager[System]]:
    @contextmanager
    def opened(work: DecodeWork) -> Iterator[System]:
        yield _Counting(strays=strays)

    return opened


@pytest.mark.parametrize("repeats", [1, 2])
def test_other_tokens_in_any_repeat_void_the_row(repeats: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systems = MappingProxyType({"local": _opener(strays=False), comparison.GENIE: _opener(strays=True)})
    monkeypatch.setattr(comparison, "SYSTEMS", systems)
    monkeypatch.setattr(comparison, "_sent", Counter)
    comparison.compare(DecodeWork("tiny-gpt2", 8, 64, 0), 4, repeats, tmp_path / "peers.json", lambda _: None)
    local, genie = read_study(tmp_path / "peers.json").rows
    assert local.void == ""
    assert "in mode local" in genie.void


def test_a_system_that_cannot_be_started_costs_its_own_row_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def refused(work: DecodeWork) -> Iterator[System]:
        raise ConnectionError("port taken\nby another")
        yield  # makes it a generator

    systems = {"local": _opener(strays=False), comparison.GENIE: _opener(strays=False), "ray actor": refused}
    monkeypatch.setattr(comparison, "SYSTEMS", MappingProxyType(systems))
    monkeypatch.setattr(comparison, "missing", lambda name: "")
    monkeypatch.setattr(comparison, "_sent", Counter)
    study = comparison.compare(DecodeWork("tiny-gpt2", 8, 64, 0), 4, 1, tmp_path / "peers.json", lambda _: None)
    assert [row.mode for row in study.rows] == ["local", comparison.GENIE]
    assert [(gap.what, gap.reason) for gap in study.gaps] == [
        ("ray actor", "could not be started: ConnectionError: port taken")
    ]
