"""`generate()` locally and through a daemon: the same tokens, at which pace, and what crossed the wire."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

import dynamo_genie
from dynamo_genie.backend import genie
from dynamo_genie.bench.report import Say
from dynamo_genie.errors import GenieError
from dynamo_genie.torch_internals.compile_context import clear_counters, graph_breaks

MODEL_OPERATORS = frozenset(
    "addmm mm bmm baddbmm linear matmul _softmax native_layer_norm embedding "
    "scaled_dot_product_attention _scaled_dot_product_flash_attention_for_cpu".split()
)
"""Operators that only a forward pass of the model needs: none of them may run in this process."""


class StepClock:
    """Notes when each forward pass of `generate()` begins, by listening where it prepares the inputs.

    Attributes:
        marks: For each pass, when it began and what the counters said then.
    """

    def __init__(self, model: Any, read_counters: Callable[[], Mapping[str, Any]] | None = None) -> None:
        self.marks: list[tuple[float, Mapping[str, Any] | None]] = []
        prepare = model.prepare_inputs_for_generation

        @functools.wraps(prepare)
        def noted(*args: Any, **kwargs: Any) -> Any:
            self.marks.append((time.perf_counter(), read_counters() if read_counters is not None else None))
            return prepare(*args, **kwargs)

        model.prepare_inputs_for_generation = noted

    def decode_seconds(self) -> list[float]:
        """Return the time of each step after the prompt's, the token's choice included."""
        return [after - before for (before, _), (after, _) in pairwise(self.marks[1:])]

    def decode_bytes(self) -> dict[str, dict[str, int]]:
        """Return median bytes a decode step by direction and tensor class."""
        taken = [counters for _, counters in self.marks[1:] if counters is not None]
        pairs = list(pairwise(taken))
        return {
            direction: {
                name: int(
                    statistics.median(after[direction][name] - before[direction][name] for before, after in pairs)
                )
                for name in taken[0][direction]
            }
            for direction in ("sent", "received")
        }


@dataclass(frozen=True)
class Comparison:
    """What one comparison of a model with itself, here and there, found."""

    tokens_equal: bool
    local_tokens: list[int]
    remote_tokens: list[int]
    local_step_ms: float
    remote_step_ms: float
    first_call_s: float
    bytes_per_step: dict[str, dict[str, int]]
    weight_bytes_sent: int
    weight_bytes_sent_again: int
    calls_per_token: float
    fetches_per_token: float
    live_handles: int

    @property
    def ratio(self) -> float:
        """Remote time of a step over the local one."""
        return self.remote_step_ms / self.local_step_ms


def generate(model: Any, prompt: torch.Tensor, new_tokens: int, cache: str) -> torch.Tensor:
    """Decode greedily with Hugging Face's own loop; `cache` is "dynamic" or "static"."""
    options = {"cache_implementation": "static"} if cache == "static" else {}
    with torch.no_grad():
        return model.generate(  # type: ignore[no-any-return]
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=new_tokens, do_sample=False, **options
        )


def compare_with_local(
    model: Any,
    prompt: torch.Tensor,
    new_tokens: int,
    cache: str,
    options: Mapping[str, object],
    say: Say,
    *,
    local: Any = None,
    local_prompt: torch.Tensor | None = None,
) -> Comparison:
    """Generate locally, then through the backend: once to compile and upload, once to measure, once to look.

    Args:
        model: A model that generates; its `forward` is compiled by this.
        prompt: Token ids.
        new_tokens: How many to generate; at least 4, so that there are steps to take the median of.
        cache: "dynamic" or "static".
        options: Options of the backend.
        say: Told what comes next.
        local: The reference model; `model` itself before it is compiled when None.
        local_prompt: Token ids on the reference model's device.

    Raises:
        GenieError: Part of the model ran in this process.
    """
    if new_tokens < 4:
        raise GenieError(f"generate at least 4 tokens, not {new_tokens}: the first steps are not measured")
    length = prompt.shape[1]
    say("generating the reference in local eager PyTorch")
    reference = model if local is None else local
    clock = StepClock(reference)
    expected = generate(reference, prompt if local_prompt is None else local_prompt, new_tokens, cache).cpu()
    local_s = clock.decode_seconds()

    say("compiling and uploading the weights (first generate)")
    torch.compiler.reset()
    clear_counters()
    model.compile(backend=genie, options=dict(options))
    dynamo_genie.reset_stats()
    start = time.perf_counter()
    first = generate(model, prompt, new_tokens, cache)
    first_call_s = time.perf_counter() - start
    uploaded = total()["sent"]["weight"]

    say("generating through the daemon (measured)")
    clock = StepClock(model, total)
    before = total()
    remote = generate(model, prompt, new_tokens, cache)
    after = total()

    say("generating once more, watching what runs in this process")
    again = _refuse_local_work(lambda: generate(model, prompt, new_tokens, cache), new_tokens)
    answers = [tokens[0, length:].tolist() for tokens in (expected, first, remote, again)]
    return Comparison(
        tokens_equal=all(answer == answers[0] for answer in answers),
        local_tokens=answers[0],
        remote_tokens=next((answer for answer in answers[1:] if answer != answers[0]), answers[1]),
        local_step_ms=statistics.median(local_s) * 1e3,
        remote_step_ms=statistics.median(clock.decode_seconds()[: new_tokens - 2]) * 1e3,
        first_call_s=first_call_s,
        bytes_per_step=clock.decode_bytes(),
        weight_bytes_sent=uploaded,
        weight_bytes_sent_again=total()["sent"]["weight"] - uploaded,
        calls_per_token=(after["calls"] - before["calls"]) / new_tokens,
        fetches_per_token=(after["fetches"] - before["fetches"]) / new_tokens,
        live_handles=after["live_handles"],
    )


def total() -> dict[str, Any]:
    """Return what `dynamo_genie.stats()` says of all connections together."""
    found: dict[str, Any] = dynamo_genie.stats()["total"]
    return found


def _refuse_local_work(run: Callable[[], torch.Tensor], new_tokens: int) -> torch.Tensor:
    """Run under PyTorch's profiler and raise if an operator of the model ran here, or a pass was not sent."""
    before = total()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        tokens = run()
    after = total()
    here = {event.key.removeprefix("aten::") for event in profile.key_averages()} & MODEL_OPERATORS
    breaks = graph_breaks()
    calls = after["calls"] - before["calls"]
    if here or breaks or calls < new_tokens or after["local_reads"]:
        raise GenieError(
            f"part of the model ran in this process instead of the daemon: operators {sorted(here)}, "
            f"graph breaks {breaks}, {calls} remote calls for {new_tokens} tokens, {after['local_reads']} local reads"
        )
    return tokens
