"""A model of shards that the daemon has: what a client that generates with it sends, and how much memory it takes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from tests.integration.loading.generating import write_llama
from tests.integration.real_daemon import RealDaemon, run_interpreter

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.environ.get("GENIE_TEST_BACKEND", "genie") != "genie", reason="about tensors in daemons"),
]

COMPILING_MB = 260
"""What a client takes beside its imports, Dynamo and AOTAutograd included."""

MANY = {"hidden_size": 1536, "intermediate_size": 4096, "num_hidden_layers": 16, "num_attention_heads": 12}
FEW = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("sizes", "vocabulary", "nbytes"),
    [
        pytest.param(FEW, 8_000, 24e6, id="24 MB"),
        pytest.param(MANY, 32_000, 2e9, id="2 GB", marks=pytest.mark.sweep),
    ],
)
def test_a_client_generates_with_a_model_that_it_never_has(
    tmp_path: Path, sizes: dict[str, int], vocabulary: int, nbytes: float
) -> None:
    config = LlamaConfig(**sizes, num_key_value_heads=sizes["num_attention_heads"] // 2, vocab_size=vocabulary)
    assert write_llama(tmp_path / "llama", config) > nbytes
    here = run(tmp_path, "here")
    with RealDaemon(more=["--model-dir", str(tmp_path)]) as daemon:
        found = run(tmp_path, "llama", GENIE_DAEMONS=daemon.endpoint)
    print(found)
    assert found["eager"] == found["compiled"] == here["eager"]
    assert len(set(here["eager"])) > 8, "a model that repeats itself shows nothing"
    assert found["sent"] < 1_000_000
    assert found["peak_mb"] < max(600, found["imports_mb"] + COMPILING_MB)


def run(root: Path, name: str, **environ: str) -> dict[str, Any]:
    arguments = ("tests.integration.loading.generating", str(root / "llama" / "config.json"), name)
    printed = run_interpreter("-W", "ignore", "-m", *arguments, environ=environ, limit_s=400)
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found
