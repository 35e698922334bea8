"""`genie bench gpu` without a GPU: a clear error, the whole run on a CPU, and weights that are made where they live."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import dynamo_genie
from dynamo_genie.backend import genie
from dynamo_genie.bench.daemon import running_daemon
from dynamo_genie.bench.device.decode import (
    DeviceDecodePlan,
    StaticDecoding,
    first_difference,
    measure_device_decode,
)
from dynamo_genie.bench.device.made_weights import (
    fingerprint,
    largest_numel,
    made_weights,
    remote_indices,
    set_weights,
)
from dynamo_genie.bench.device.model_pair import made_pair
from dynamo_genie.bench.study.workloads import build_empty
from dynamo_genie.tensor.remote_tensor import RemoteTensor
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


@pytest.mark.sweep
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_way_decodes_the_same_tokens(tmp_path: Path) -> None:
    arguments = ["--quick", "--device", "cpu", "--dtype", "float32", "--engines", "eager", "--json", "gpu.json"]
    out, _ = finished(bench("gpu", *arguments, cwd=tmp_path))
    details = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert details["differences"] == {"local eager": None, "local reduce-overhead": None, "genie eager": None}
    assert {len(seconds) for seconds in details["seconds"].values()} == {5}
    assert "genie eager: a decode step" in out


def test_weights_made_in_a_daemon_are_the_bits_that_are_made_here() -> None:
    with running_daemon() as daemon:
        try:
            sent = dict(dynamo_genie.stats()["total"]["sent"])["weight"]  # by earlier tests of this process
            pair = made_pair("tiny-llama", torch.float16, torch.device("cpu"), 64, daemon.endpoint)
            assert dict(dynamo_genie.stats()["total"]["sent"])["weight"] == sent
            here, there = dict(pair.here.named_parameters()), dict(pair.there.named_parameters())
            assert here.keys() == there.keys()
            assert all(torch.equal(here[name], there[name]) for name in here)
            assert pair.here.lm_head.weight is pair.here.model.embed_tokens.weight  # tied, as they were
            weight = here["model.embed_tokens.weight"].float()
            assert abs(weight.mean()) < 0.01 < weight.std()
            assert fingerprint(here) == fingerprint(there) != fingerprint({**here, "model.norm.weight": weight[0]})
        finally:
            dynamo_genie.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_model_whose_weights_a_daemon_made_decodes_without_sending_one() -> None:
    plan = DeviceDecodePlan("tiny-llama", "float32", 16, 4, ("eager",), "cpu", weights="made")
    measured = measure_device_decode(plan, print)
    details = measured.details
    assert set(details["differences"].values()) == {None}
    assert details["weight_bytes_sent"] <= details["buffer_nbytes"] < details["weight_nbytes"]
    assert details["daemon_resident_nbytes"] < 1.5 * details["weight_nbytes"]  # once, and a cache or two


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_remote_tensors_may_be_the_parameters_of_a_compiled_model() -> None:
    model, local = (build_empty("tiny-gpt2", dtype=torch.float32, longest=64) for _ in range(2))
    numel = largest_numel(local)
    set_weights(local, made_weights(local, torch.arange(numel, dtype=torch.int32), 0))
    with running_daemon() as daemon:
        try:
            options = {"daemons": daemon.endpoint, "progress": False}
            set_weights(model, made_weights(model, remote_indices(numel, options), 0))
            assert type(model.lm_head.weight) is RemoteTensor
            assert isinstance(model.lm_head.weight, torch.nn.Parameter)
            compiled, prompt = torch.compile(model, backend=genie, options=options), torch.arange(1, 9)[None]
            ways = [StaticDecoding(forward, forward, prompt, local.config, 64) for forward in (local, compiled)]
            for way in ways:
                way.begin()
                for _ in range(6):
                    way.step()
            assert ways[0].tokens == ways[1].tokens
            assert dynamo_genie.stats()["total"]["sent"]["weight"] == 0
        finally:
            dynamo_genie.shutdown()
