"""A decode step against what the device's memory allows: locally, compiled locally, and through a daemon's engines.

A step at batch 1 reads every weight and all of the cache once, so the *floor* is their bytes over the rate at which
the device copies (bytes read and written, as STREAM counts them: McCalpin 1995), measured in the same run. Prefill is
held against the measured rate of a matrix product: 2 operations a parameter and token (Kaplan et al., 2020, 2.1).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import torch
from torch import Tensor

import dynamo_genie
from dynamo_genie.backend import genie
from dynamo_genie.bench.alternate import in_turns
from dynamo_genie.bench.daemon import running_daemon
from dynamo_genie.bench.device.arrival import measure_arrival
from dynamo_genie.bench.device.model_pair import ModelPair, Weights, made_pair, uploaded_pair
from dynamo_genie.bench.device.rates import kernel_s, measure_rates
from dynamo_genie.bench.model import parameter_nbytes
from dynamo_genie.bench.report import Figure, Measured, Say
from dynamo_genie.bench.study.gpu import Gpu, Samples
from dynamo_genie.errors import OptionError
from dynamo_genie.tensors import TORCH_DTYPES

LOCAL, REDUCE_OVERHEAD = "local eager", "local reduce-overhead"
WARM_STEPS = 6
ROOM = 16

Forward = Callable[..., Any]


@dataclass(frozen=True)
class DeviceDecodePlan:
    """What to measure: a name in `workloads.WORKLOADS`, a dtype, tokens, steps, engines, "cpu" or "cuda".

    With weights `made` nothing is uploaded, and nothing is said of uploads.
    """

    model: str
    dtype: str
    prompt: int
    steps: int
    engines: tuple[str, ...]
    device: str
    weights: Weights = "uploaded"


@dataclass
class StaticDecoding:
    """One way to decode: a Static cache, and a token that each step makes of the last one."""

    forward: Forward
    prefill: Forward
    prompt: Tensor
    config: Any
    length: int
    tokens: list[int] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)

    def begin(self) -> None:
        """Feed the prompt into a new cache."""
        from transformers import StaticCache

        self._cache = StaticCache(config=self.config, max_cache_len=self.length)
        self.tokens, self.gaps = [], []
        self._read(self.prefill, self.prompt, torch.arange(self.prompt.shape[1], device=self.prompt.device))

    def step(self) -> None:
        """Feed the last token and read the next one."""
        position = self.prompt.shape[1] + len(self.tokens) - 1
        device = self.prompt.device
        self._read(
            self.forward, torch.tensor([[self.tokens[-1]]], device=device), torch.tensor([position], device=device)
        )

    def _read(self, forward: Forward, ids: Tensor, position: Tensor) -> None:
        with torch.no_grad():
            logits = forward(ids, past_key_values=self._cache, cache_position=position, use_cache=True).logits[0, -1]
            best = logits.float().topk(2)
        values, indices = best.values.tolist(), best.indices.tolist()
        self.tokens.append(indices[0])
        self.gaps.append((values[0] - values[1]) / max(abs(values[0]), 1e-30))


def measure_device_decode(plan: DeviceDecodePlan, say: Say) -> Measured:
    """Measure all ways in turns, in one run; tokens are compared with local eager's first.

    Returns:
        Figures; in details, seconds of every step, the first token that differs and the gap of logits there.

    Raises:
        OptionError: There is no such device.
    """
    if plan.device == "cuda" and not torch.cuda.is_available():
        raise OptionError("--device cuda: torch finds no CUDA device on this machine; --device cpu shows how it works")
    device, dtype = torch.device(plan.device), TORCH_DTYPES[plan.dtype]
    length = plan.prompt + 2 * WARM_STEPS + plan.steps + ROOM
    rates = measure_rates(device, dtype)
    with running_daemon(device=plan.device) as daemon:
        try:
            say("building the model")
            if plan.weights == "made":
                pair = made_pair(plan.model, dtype, device, length, daemon.endpoint)
            else:
                pair = uploaded_pair(plan.model, dtype, device, length)
            arrival = measure_arrival(daemon.endpoint, pair.there, device) if plan.weights == "uploaded" else []
            ways = _ways(plan, pair, length, daemon.endpoint)
            taken, prefill_s, busy = _measure(plan, ways, say)
            kernels = {name: kernel_s(way.step, device) for name, way in ways.items()}  # each takes one more step
            worker = daemon.worker
            sent = dynamo_genie.stats()["total"]["sent"]["weight"]
        finally:
            dynamo_genie.shutdown()
    weights = parameter_nbytes(pair.here)
    cache = _cache_nbytes(pair.here.config, length, dtype)
    parameters = sum(p.numel() for p in pair.here.parameters())
    floor_s = (weights + cache) / rates.bytes_per_s
    figures = [
        Figure(f"{name}: a decode step", statistics.median(seconds) * 1e3, "ms", floor_s * 1e3,
               statistics.median(seconds) / floor_s)
        for name, seconds in taken.items()
    ]  # fmt: skip
    compute_floor_s = 2 * parameters * plan.prompt / rates.flops_per_s
    figures += [
        Figure(f"{name}: prefill", s * 1e3, "ms", compute_floor_s * 1e3, s / compute_floor_s)
        for name, s in prefill_s.items()
    ]
    figures += arrival
    figures += [Figure(f"{name}: device busy (NVML)", share * 100, "%") for name, share in busy.items()]
    figures += [
        Figure(f"{name}: device busy (kernels)", own / statistics.median(seconds) * 100, "%")
        for name, seconds in taken.items()
        if (own := kernels[name] or kernels[LOCAL])  # a daemon runs the kernels of local eager in its own process
    ]
    details = {
        "plan": {"model": plan.model, "dtype": plan.dtype, "prompt": plan.prompt, "device": plan.device,
                 "weights": plan.weights},
        "weight_nbytes": weights,
        "buffer_nbytes": sum(buffer.nbytes for buffer in pair.here.buffers()),
        "cache_nbytes": cache,
        "copy_bytes_per_s": rates.bytes_per_s,
        "flops_per_s": rates.flops_per_s,
        "floor_s": floor_s,
        "tokens": len(ways[LOCAL].tokens),
        "seconds": taken,
        "kernel_seconds": kernels,
        "differences": {name: first_difference(ways[LOCAL], way, torch.finfo(dtype).eps) for name, way in ways.items()},
        "weight_bytes_sent": sent,
        "daemon_resident_nbytes": worker.resident_nbytes,
        "engines": [msgspec.structs.asdict(engine) for engine in worker.engines],
    }  # fmt: skip
    return Measured(figures, details)


def first_difference(right: StaticDecoding, other: StaticDecoding, rounding: float) -> dict[str, float | bool] | None:
    """Return the first step whose token differs, and the relative gap of local eager's two best logits there.

    A gap below `rounding`, the dtype's, explains a difference: another order of the same additions may swap the two.
    """
    for step, (theirs, own) in enumerate(zip(right.tokens, other.tokens, strict=True)):
        if theirs != own:
            gap = right.gaps[step]
            return {"step": step, "logit_gap": gap, "explained": gap <= rounding}
    return None


def _ways(plan: DeviceDecodePlan, pair: ModelPair, length: int, endpoint: str) -> dict[str, StaticDecoding]:
    config = pair.here.config
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randint(1, config.vocab_size, (1, plan.prompt), generator=generator)

    def way(forward: Forward, prefill: Forward, ids: Tensor) -> StaticDecoding:
        return StaticDecoding(forward, prefill, ids, config, length)

    local = pair.here
    ways = {
        LOCAL: way(local, local, prompt.to(plan.device)),
        REDUCE_OVERHEAD: way(torch.compile(local, mode="reduce-overhead"), local, prompt.to(plan.device)),
    }
    for engine in plan.engines:
        compiled = torch.compile(
            pair.there, backend=genie, options={"daemons": endpoint, "engine": engine, "progress": False}
        )
        ways[genie_way(engine)] = way(compiled, compiled, prompt)
    return ways


def genie_way(engine: str) -> str:
    """Return the name of decoding through a daemon with this engine."""
    return f"genie {engine}"


def _measure(
    plan: DeviceDecodePlan, ways: dict[str, StaticDecoding], say: Say
) -> tuple[dict[str, list[float]], dict[str, float], dict[str, float]]:
    for name, way in ways.items():
        say(f"warming {name} up")
        for _ in range(2):
            way.begin()
            for _ in range(WARM_STEPS):
                way.step()
    say("measuring")
    prefill = in_turns({name: way.begin for name, way in ways.items()}, 3)
    for way in ways.values():
        for _ in range(WARM_STEPS):
            way.step()
    steps = in_turns({name: way.step for name, way in ways.items()}, plan.steps)
    busy = {name: share for name, way in ways.items() if (share := _busy(way)) is not None}
    return steps, {name: statistics.median(seconds) for name, seconds in prefill.items()}, busy


def _busy(way: StaticDecoding) -> float | None:
    """Return how busy NVML says the device is while this way decodes alone."""
    samples, began = Samples(), time.monotonic()
    with Gpu().sampled(samples):
        for _ in range(WARM_STEPS):
            way.step()
    return samples.mean_over([(began, time.monotonic())])


def _cache_nbytes(config: Any, length: int, dtype: torch.dtype) -> int:
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * int(config.num_hidden_layers) * int(heads) * int(size) * length * dtype.itemsize
