"""What the backend adds to a decode step, against `aot_eager` in this process; and what crosses the wire for it.

Both models have equal weights and take their steps in turns, so noise meets both. One thread on each side.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

import dynamo_genie
from dynamo_genie.backend import genie
from dynamo_genie.bench.alternate import in_turns
from dynamo_genie.bench.decoding import Decoding
from dynamo_genie.bench.generation import StepClock, generate, total
from dynamo_genie.bench.model import Gpt2Shape, build_gpt2, random_prompt
from dynamo_genie.bench.report import Figure, Measured, at_most, at_most_above, summary
from dynamo_genie.errors import GenieError

STEP_ABOVE_MS = 1.5
GENERATE_ABOVE_MS = 4.0
STEP_BYTES = 3000
WARM_UP_STEPS = 4
FLOOR = "aot_eager"


@dataclass(frozen=True)
class DecodePlan:
    """What to measure."""

    shape: Gpt2Shape
    prompt: int
    steps: int
    generates: int
    new_tokens: int
    cache_lengths: tuple[int, ...]
    steps_for_bytes: int = 8


def measure_decode(plan: DecodePlan, options: Mapping[str, object]) -> Measured:
    """Measure steps, `generate()` and bytes.

    Raises:
        GenieError: The two models did not decode the same tokens.
    """
    models = _compiled_pair(plan.shape, options)
    details: dict[str, object] = {}
    figures: list[Figure] = []
    try:
        for measure in (_steps, _generates, _bytes_of_steps):
            torch.compiler.reset()  # else the graphs of all phases together pass Dynamo's limit of recompilations
            figures += measure(models, plan, details)
    finally:
        dynamo_genie.shutdown()
    return Measured(figures, details)


def _compiled_pair(shape: Gpt2Shape, options: Mapping[str, object]) -> dict[str, Any]:
    ours = build_gpt2(shape)
    floor = copy.deepcopy(ours)
    ours.compile(backend=genie, options=dict(options))
    floor.compile(backend=FLOOR)
    return {"ours": ours, "floor": floor}


def _steps(models: Mapping[str, Any], plan: DecodePlan, details: dict[str, object]) -> list[Figure]:
    prompt = random_prompt(plan.shape, plan.prompt)
    loops = {name: _begun(model, prompt) for name, model in models.items()}
    ways = {name: loop.step for name, loop in loops.items()}
    in_turns(ways, WARM_UP_STEPS)
    before = total()
    samples = in_turns(ways, plan.steps)
    if loops["ours"].answer != loops["floor"].answer:
        raise GenieError("the backend decoded other tokens than aot_eager")
    _require_calls(before, total(), plan.steps)
    return [_figure("decode step ending in item()", samples, STEP_ABOVE_MS, details)]


def _begun(model: Any, prompt: torch.Tensor) -> Decoding:
    """Return a model in the middle of decoding: the prompt is in its cache."""
    loop = Decoding(model, prompt)
    loop.begin()
    loop.step()
    return loop


def _generates(models: Mapping[str, Any], plan: DecodePlan, details: dict[str, object]) -> list[Figure]:
    prompt = random_prompt(plan.shape, plan.prompt)
    clocks = {name: StepClock(model) for name, model in models.items()}
    tokens: dict[str, torch.Tensor] = {}
    samples: dict[str, list[float]] = {name: [] for name in models}

    def way(name: str) -> None:
        clocks[name].marks.clear()
        tokens[name] = generate(models[name], prompt, plan.new_tokens, "dynamic")
        samples[name] += clocks[name].decode_seconds()

    ways = {name: lambda name=name: way(name) for name in models}
    in_turns(ways, 1)
    for taken in samples.values():
        taken.clear()
    before = total()
    in_turns(ways, plan.generates)
    _require_calls(before, total(), plan.generates * plan.new_tokens)
    if not torch.equal(tokens["ours"], tokens["floor"]):
        raise GenieError("generate() through the backend gave other tokens than aot_eager")
    return [_figure("token of generate()", samples, GENERATE_ABOVE_MS, details)]


def _figure(name: str, samples: Mapping[str, list[float]], limit_ms: float, details: dict[str, object]) -> Figure:
    details[f"{name}_ms"] = {who: summary(taken, 1e3) for who, taken in samples.items()}
    ours, floor = (statistics.median(samples[who]) * 1e3 for who in ("ours", "floor"))
    return at_most_above(f"{name}, floor {FLOOR}", ours, floor, "ms", limit_ms)


def _bytes_of_steps(models: Mapping[str, Any], plan: DecodePlan, details: dict[str, object]) -> list[Figure]:
    """Bytes of a step both ways, at several lengths of the cache."""
    return [f for length in plan.cache_lengths for f in _bytes_at(models["ours"], plan, length, details)]


def _bytes_at(model: Any, plan: DecodePlan, length: int, details: dict[str, object]) -> list[Figure]:
    """Bytes with `length` tokens in the cache when the first counted step begins."""
    loop = _begun(model, random_prompt(plan.shape, length - WARM_UP_STEPS))
    for _ in range(WARM_UP_STEPS):
        loop.step()
    before = total()
    for _ in range(plan.steps_for_bytes):
        loop.step()
    after = total()
    _require_calls(before, after, plan.steps_for_bytes)
    each = {
        direction: {name: (after[direction][name] - n) / plan.steps_for_bytes for name, n in before[direction].items()}
        for direction in ("sent", "received")
    }
    details[f"bytes_of_a_step_at_{length}"] = each
    both = sum(sum(found.values()) for found in each.values())
    return [
        at_most(f"bytes of a step at {length} tokens, both ways", both, "B", STEP_BYTES),
        at_most(f"of them KV cache, at {length} tokens", sum(found["kv_cache"] for found in each.values()), "B", 0),
    ]


def _require_calls(before: Mapping[str, Any], after: Mapping[str, Any], steps: int) -> None:
    """Raise unless each step was a call: what runs here would look fast and cost no bytes."""
    calls = after["calls"] - before["calls"]
    if calls < steps:
        raise GenieError(f"{steps} steps made {calls} remote calls: part of the model ran in this process")
