"""Training steps end to end on a tiny model: equal losses, and bytes that say where the model lives."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynamo_genie.bench.study.plan import Group, Protocol, members_of
from dynamo_genie.bench.study.runner import Runner
from tests.integration.study.test_bench_study import moved

REPEATS = 2


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_resident_model_does_not_move_and_the_others_losses_are_its_own(tmp_path: Path) -> None:
    members = members_of(("naive", "resident"))
    group = Group("loopback", "tiny-gpt2", 32, members, task="train", batch=2)
    study = Runner("training", Protocol(steps=1, repeats=REPEATS), tmp_path / "training.json", print).run([group])
    assert (study.complete, study.gaps) == (True, ())
    local, naive, resident = study.rows
    assert [row.mode for row in study.rows] == ["local", "naive", "resident"]
    assert [row.void for row in study.rows] == ["", "", ""]
    assert {row.phase for row in study.rows} == {"train"}
    model_nbytes = 4 * (500 * 64 + 64 * 64 * 24)  # nearly all of it: embeddings of tokens, and two layers
    assert moved(local) == 0
    assert moved(naive) > 2 * model_nbytes * REPEATS
    assert naive.sent["weight"] == naive.received["gradient"] >= model_nbytes * REPEATS
    assert 0 < moved(resident) < 20_000 * REPEATS
    assert not {"weight", "gradient"} & {*resident.sent, *resident.received}
