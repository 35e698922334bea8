"""Stage a: a small model generates the same tokens through a daemon as in local eager PyTorch on the same device.

Compiling takes most of the time, so pairs of cache and engine are compared in processes beside each other, as many as
the machine has cores for; times of a token are those of a busy machine.
"""

from __future__ import annotations

import copy
import os
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from typing import Any

import msgspec
import torch

import dynamo_genie
from dynamo_genie.bench.daemon import RunningDaemon, running_daemon
from dynamo_genie.bench.generation import Comparison, compare_with_local
from dynamo_genie.bench.gpu_check.outcome import Outcome, caught_fallbacks, say
from dynamo_genie.bench.gpu_check.scale import Scale
from dynamo_genie.bench.report import Figure, at_most
from dynamo_genie.bench.study.workloads import build_model
from dynamo_genie.engines import CUDAGRAPHS

STEP_BYTES = 3000
CORES_A_PAIR = 2
"""One for the client and one for what it has the daemon do."""


@dataclass(frozen=True)
class PairCompared:
    """What one cache with one engine showed, and what fell back meanwhile."""

    found: Comparison
    notes: tuple[str, ...]


def check_tokens(scale: Scale, outcome: Outcome) -> None:
    """Compare all pairs of cache and engine, and write down each as it ends."""
    workers = min(len(scale.pairs), max(1, (os.cpu_count() or 1) // CORES_A_PAIR))
    with (
        running_daemon(device=scale.device) as daemon,
        ProcessPoolExecutor(workers, get_context("spawn")) as processes,
    ):
        running: dict[Future[PairCompared], str] = {}
        for cache, engine in scale.pairs:
            running[processes.submit(compare_pair, scale, cache, engine, daemon.endpoint)] = f"{cache} cache, {engine}"
        for done in as_completed(running):
            compared, way = done.result(), running[done]
            outcome.add(_figures(compared.found, way), details={way: asdict(compared.found)})
            for note in compared.notes:
                outcome.add(note=note)
        outcome.add(_engines_used(scale, daemon, outcome))


def compare_pair(scale: Scale, cache: str, engine: str, endpoint: str) -> PairCompared:
    """Compare one cache and engine with local eager, in a process of its own."""
    if scale.rehearsal:
        torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    say(f"{cache} cache, {engine}: building the model")
    longest = scale.prompt + scale.new_tokens + 1
    model = build_model(scale.small, dtype=torch.float32, device="cpu", seed=0, longest=longest)
    vocabulary = model.config.vocab_size
    model.generation_config.eos_token_id = vocabulary  # looked for at each step, as always, and never found
    prompt = torch.randint(1, vocabulary, (1, scale.prompt), generator=torch.Generator().manual_seed(1))
    local = copy.deepcopy(model).to(scale.device)
    with caught_fallbacks() as notes:
        try:
            found = compare_with_local(
                model, prompt, scale.new_tokens, cache, {"daemons": endpoint, "engine": engine},
                lambda text: say(f"{cache} cache, {engine}: {text}"),
                local=local, local_prompt=prompt.to(scale.device),
            )  # fmt: skip
        finally:
            dynamo_genie.shutdown()
    return PairCompared(found, tuple(notes))


def _engines_used(scale: Scale, daemon: RunningDaemon, outcome: Outcome) -> list[Figure]:
    """Write down what ran the programs, and hold a GPU to having replayed some."""
    engines = daemon.worker.engines
    outcome.add(details={"device": _device(), "engines": [msgspec.structs.asdict(engine) for engine in engines]})
    if scale.rehearsal:
        return []
    calls = sum(engine.calls for engine in engines if engine.engine == CUDAGRAPHS)
    return [Figure("calls of programs that run as CUDA graphs", calls, "", None, calls, ">= 1", calls >= 1)]


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
