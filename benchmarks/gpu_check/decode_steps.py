"""Stage c: decode steps of models as large as the device wants, held against its memory and a compiler's best."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Mapping
from typing import Any

import torch

from dynamo_genie.bench.device.decode import (
    REDUCE_OVERHEAD,
    DeviceDecodePlan,
    genie_way,
    measure_device_decode,
)
from dynamo_genie.bench.gpu_check.outcome import Outcome, say
from dynamo_genie.bench.gpu_check.scale import Scale
from dynamo_genie.bench.report import Figure, at_most, at_most_times
from dynamo_genie.engines import CUDAGRAPHS

OURS = genie_way(CUDAGRAPHS)
FLOOR_TIMES, COMPILED_TIMES = 1.25, 1.05


def check_decode_steps(scale: Scale, outcome: Outcome) -> None:
    """Measure each model in turn; what is known of one stays when the next one fails."""
    for name in scale.large:
        say(name)
        plan = DeviceDecodePlan(
            name, scale.dtype, scale.prompt, scale.steps, (CUDAGRAPHS,), scale.device, weights="made"
        )  # fmt: skip
        with outcome.noting_fallbacks():
            measured = measure_device_decode(plan, say)
        details = measured.details
        plain = [Figure(f"{name}, {f.name}", f.value, f.unit, f.floor, f.judged) for f in measured.figures]
        judged = speed_figures(name, details) if scale.judged else []
        outcome.add([*sameness_figures(name, details), *judged, *plain], details={name: dict(details)})
        torch.compiler.reset()  # the next model wants the memory
        gc.collect()
        if scale.device == "cuda":
            torch.cuda.empty_cache()


def sameness_figures(name: str, details: Mapping[str, Any]) -> list[Figure]:
    """Hold tokens against local eager's, and bytes against a model of which buffers alone may cross the wire."""
    difference = details["differences"][OURS]
    explained = difference is None or difference["explained"]
    step = details["tokens"] if difference is None else difference["step"]
    gap = "" if difference is None else f", logits {difference['logit_gap']:.1e} apart there"
    return [
        Figure(
            f"{name}: tokens until one differs{gap}", step, "", details["tokens"], None, "all, or explained", explained
        ),
        at_most(f"{name}: bytes of weights sent", details["weight_bytes_sent"], "B", details["buffer_nbytes"]),
    ]


def speed_figures(name: str, details: Mapping[str, Any]) -> list[Figure]:
    """Hold a step against what the memory allows, and against the same step compiled locally."""
    ours, compiled = (statistics.median(details["seconds"][way]) * 1e3 for way in (OURS, REDUCE_OVERHEAD))
    return [
        at_most_times(f"{name}: a step, floor the memory", ours, details["floor_s"] * 1e3, "ms", FLOOR_TIMES),
        at_most_times(f"{name}: a step, floor local reduce-overhead", ours, compiled, "ms", COMPILED_TIMES),
    ]
