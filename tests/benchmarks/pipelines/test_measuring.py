"""Pipelines measured with small models on loopback: real daemons, a client process, equal answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynamo_genie.bench.pipelines.plan import Repeats, settings_of
from dynamo_genie.bench.pipelines.predicted import MeasuredCall, predicted_rows
from dynamo_genie.bench.pipelines.runner import PipelineRunner
from dynamo_genie.bench.study.records import read_study


def test_a_batch_and_a_prompt_with_tokens_are_measured_and_compared(tmp_path: Path) -> None:
    path = tmp_path / "pipelines.json"
    settings = settings_of(("loopback",), ("tiny-vit", "tiny-gpt2"), (64,), 8, 2, ("gathered",))
    PipelineRunner(Repeats(measured=2), path, lambda _: None).run(settings)
    study = read_study(path)
    assert study.complete
    assert study.gaps == ()
    assert [(row.model, row.phase, row.mode, row.steps, row.void) for row in study.rows] == [
        (model, phase, mode, steps, "")
        for model, phase, steps in (
            ("tiny-vit", "vision", 2),
            ("tiny-vit", "after", 2),
            ("tiny-gpt2", "prefill", 2),
            ("tiny-gpt2", "after", 2),
            ("tiny-gpt2", "decode", 2),
        )
        for mode in ("one", "auto")
    ]
    assert all(row.busy_s for row in study.rows if row.phase in ("vision", "prefill"))


def test_more_daemons_are_predicted_to_be_no_slower_and_a_measured_one_as_it_was() -> None:
    rows = predicted_rows(MeasuredCall("tiny-vit", 64, 0.5))
    seconds = {(row.network, row.mode): row.seconds[0][0] for row in rows}
    assert len(seconds) == 12
    assert seconds["100gbit,0.1ms", "1"] == pytest.approx(0.5, rel=0.01)
    for network in ("1gbit,0.1ms", "10gbit,0.1ms", "100gbit,0.1ms"):
        times = [seconds[network, count] for count in ("1", "2", "4", "8")]
        assert times == sorted(times, reverse=True)
        assert times[1] < 0.7 * times[0]
