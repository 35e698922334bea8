"""The runner of the study with clients that answer from a list: who fails loses its own rows only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dynamo_genie.bench.study import runner as runner_module
from dynamo_genie.bench.study.orders import MeasuredPhase, Ready, RepeatDone
from dynamo_genie.bench.study.plan import Group, Member, Protocol, members_of
from dynamo_genie.bench.study.records import read_study
from dynamo_genie.bench.study.runner import Runner
from dynamo_genie.bench.study.team import Player
from dynamo_genie.errors import GenieError

GROUP = Group("loopback", "tiny-gpt2", 8, members_of(("naive", "semantic")))
DONE = RepeatDone((MeasuredPhase((0.1,), {"token": 8}, {}, 0, {}, (), 0, 0.0, 0.2, 0.1),), (1, 2), 1)


class ListedClient:
    """Answers `fails_at` repeats, then fails."""

    def __init__(self, fails_at: int) -> None:
        self._left = fails_at
        self.closed = False

    def say(self, order: object) -> None:
        assert not self.closed

    def done(self) -> RepeatDone:
        self._left -= 1
        if self._left < 0:
            raise GenieError("client 0 ended unexpectedly; its log ends:\nhere")
        return DONE

    def close(self) -> None:
        self.closed = True


def run(monkeypatch: pytest.MonkeyPatch, path: Path, *, fails: dict[str, int], unable: dict[str, str]) -> Any:
    @contextmanager
    def assembled(*rest: object) -> Iterator[tuple[list[Player], dict[str, str]]]:
        def player(member: Member) -> Player:
            client: Any = ListedClient(fails.get(member.label, 99))
            return Player(member, [client], [Ready(("decode",), "cpu", (), 1)])

        yield [player(member) for member in GROUP.members if member.label not in unable], unable

    monkeypatch.setattr(runner_module, "assembled", assembled)
    Runner("modes", Protocol(repeats=3), path, lambda _: None).run([GROUP])
    return read_study(path)


def test_a_client_that_fails_in_a_repeat_leaves_what_it_did_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = run(monkeypatch, tmp_path / "modes.json", fails={"naive": 1}, unable={})
    assert study.complete
    assert [(row.mode, len(row.seconds)) for row in study.rows] == [("local", 3), ("naive", 1), ("semantic", 3)]
    assert [(gap.what, gap.reason) for gap in study.gaps] == [
        (
            "naive, tiny-gpt2, prompt 8, sessions 1, from repeat 2 on",
            "client 0 ended unexpectedly; its log ends:",
        )
    ]


def test_a_client_that_never_answers_a_repeat_has_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = run(monkeypatch, tmp_path / "modes.json", fails={"semantic": 0}, unable={"naive": "too large"})
    assert [row.mode for row in study.rows] == ["local"]
    assert [gap.reason for gap in study.gaps] == ["too large", "client 0 ended unexpectedly; its log ends:"]


def test_nothing_is_compared_without_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GenieError, match="ended unexpectedly"):
        run(monkeypatch, tmp_path / "modes.json", fails={"local": 0}, unable={})
    assert not read_study(tmp_path / "modes.json").complete
