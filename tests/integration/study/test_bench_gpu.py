"""`genie bench gpu` without a GPU: a clear error, and the whole run on a CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dynamo_genie.bench.device.decode import StaticDecoding, first_difference
from tests.integration.study.test_bench_study import bench, finished


def decoder(tokens: list[int], gaps: list[float]) -> StaticDecoding:
    return StaticDecoding(print, print, torch.zeros(1, 1), None, 1, tokens, gaps)


def test_a_difference_is_explained_by_a_gap_below_rounding_only() -> None:
    right = decoder([1, 2, 3], [0.5, 1e-4, 0.5])
    assert first_difference(right, decoder([1, 2, 3], []), 1e-3) is None
    assert first_difference(right, decoder([1, 9, 3], []), 1e-3) == {"step": 1, "logit_gap": 1e-4, "explained": True}
    assert first_difference(right, decoder([9, 2, 3], []), 1e-3) == {"step": 0, "logit_gap": 0.5, "explained": False}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_named(tmp_path: Path) -> None:
    process = bench("gpu", cwd=tmp_path)
    _, log = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "--device cuda: torch finds no CUDA device on this machine; --device cpu shows how it works" in log.decode()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_way_decodes_the_same_tokens(tmp_path: Path) -> None:
    arguments = ["--quick", "--device", "cpu", "--dtype", "float32", "--engines", "eager", "--json", "gpu.json"]
    out, _ = finished(bench("gpu", *arguments, cwd=tmp_path))
    details = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert details["differences"] == {"local eager": None, "local reduce-overhead": None, "genie eager": None}
    assert {len(seconds) for seconds in details["seconds"].values()} == {5}
    assert "genie eager: a decode step" in out
