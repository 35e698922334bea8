"""Stage a: a small model generates the same tokens through a daemon as in local eager PyTorch on the same device."""

from __future__ import annotations

import copy
from dataclasses import asdict
from typing import Any

import msgspec
import torch

import dynamo_genie
from dynamo_genie.bench.daemon import running_daemon
from dynamo_genie.bench.generation import Comparison, compare_with_local
from dynamo_genie.bench.gpu_check.outcome import Outcome
from dynamo_genie.bench.gpu_check.scale import Scale
from dynamo_genie.bench.report import Figure, at_most
from dynamo_genie.bench.study.workloads import build_model
from dynamo_genie.engines import CUDAGRAPHS

STEP_BYTES = 3000


def check_tokens(scale: Scale, outcome: Outcome) -> None:
    """Compare all pairs of cache and engine."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    outcome.say("building the model")
    longest = scale.prompt + scale.new_tokens + 1
    model = build_model(scale.small, dtype=torch.float32, device="cpu", seed=0, longest=longest)
    vocabulary = model.config.vocab_size
    model.generation_config.eos_token_id = vocabulary  # looked for at each step, as always, and never found
    prompt = torch.randint(1, vocabulary, (1, scale.prompt), generator=torch.Generator().manual_seed(1))
    here = copy.deepcopy(model).to(scale.device)
    with running_daemon(device=scale.device) as daemon, outcome.noting_fallbacks():
        try:
            outcome.add(details={"daemon": dynamo_genie.connect(daemons=daemon.endpoint), "device": _device()})
            for cache, engine in scale.pairs:
                outcome.say(f"{cache} cache, {engine}")
                found = compare_with_local(
                    copy.deepcopy(model), prompt, scale.new_tokens, cache,
                    {"daemons": daemon.endpoint, "engine": engine}, outcome.say,
                    local=copy.deepcopy(here), local_prompt=prompt.to(scale.device),
                )  # fmt: skip
                outcome.add(_figures(found, f"{cache} cache, {engine}"), details={f"{cache} {engine}": asdict(found)})
            worker = daemon.worker
            outcome.add(details={"engines": [msgspec.structs.asdict(engine) for engine in worker.engines]})
            if not scale.rehearsal:
                recorded = sum(engine.calls for engine in worker.engines if engine.engine == CUDAGRAPHS)
                outcome.add([Figure("calls of programs that run as CUDA graphs", recorded, "calls", None, recorded,
                                    ">= 1", recorded >= 1)])  # fmt: skip
        finally:
            dynamo_genie.shutdown()


def _figures(found: Comparison, way: str) -> list[Figure]:
    here, there = found.local_step_ms, found.remote_step_ms
    pairs = list(zip(found.local_tokens, found.remote_tokens, strict=True))
    equal = sum(ours == theirs for ours, theirs in pairs)
    sizes = found.bytes_per_step.values()
    bytes_a_step, cache_bytes = sum(sum(size.values()) for size in sizes), sum(size["kv_cache"] for size in sizes)
    return [
        Figure(f"{way}: equal tokens", equal, "", len(pairs), equal / len(pairs), "all", found.tokens_equal),
        Figure(f"{way}: time of a token, floor local eager", there, "ms", here, found.ratio),
        at_most(f"{way}: bytes of a token, both ways", bytes_a_step, "B", STEP_BYTES),
        at_most(f"{way}: of them KV cache", cache_bytes, "B", 0),
    ]


def _device() -> dict[str, Any]:
    """Say what the device is, and by which software it is reached."""
    if not torch.cuda.is_available():
        return {}
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_nbytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
    }
