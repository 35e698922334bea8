"""How long the passes take, against what Dynamo and AOTAutograd need to capture the same graph.

Times are those of the processor in this process, on one thread: what else the machine does is not in them.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch.fx import GraphModule

from dynamo_genie.bench.model import Gpt2Shape, gpt2_config
from dynamo_genie.bench.report import Figure, Measured, at_most_times
from dynamo_genie.lowering.decompositions import decomposition_table
from dynamo_genie.lowering.input_origins import find_model_inputs, origins_of
from dynamo_genie.lowering.rewrites import REWRITES
from dynamo_genie.passes.graphs.pipeline import run_passes
from dynamo_genie.passes.understanding.analysis import analyse
from dynamo_genie.torch_internals.capture import capture_aten

_SHARE = 0.2
"""The passes may take this part of what the capture takes."""

_GROWTH = 1.5
"""What a node may cost in the largest graph, against the smallest: linear, and room for a noisy clock."""


@dataclass(frozen=True)
class PassTimes:
    """One capture: seconds of Dynamo and AOTAutograd, and of the passes; of each pass by the clock on the wall."""

    layers: int
    phase: str
    n_nodes: int
    capture_s: float
    passes_s: float
    by_pass: tuple[tuple[str, float], ...]


class _Captured(Exception):
    """Ends a call when its graph has been captured."""


@dataclass
class _Watch:
    """Takes the times of the passes inside a capture."""

    n_nodes: int = 0
    passes_s: float = 0.0
    by_pass: list[tuple[str, float]] = field(default_factory=list)

    def backend(self, gm: GraphModule, example_inputs: Sequence[Any]) -> Any:
        """A Dynamo backend that captures as ours does, and goes no further."""
        model = find_model_inputs(gm, example_inputs)

        def compile_graph(graph: GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
            started = time.process_time()
            rewritten = run_passes(graph, REWRITES)
            analysis = analyse(rewritten.gm, origins_of(rewritten.gm, model))
            self.passes_s += time.process_time() - started
            self.n_nodes = len(graph.graph.nodes)
            self.by_pass += [(record.name, record.duration_s) for record in (*rewritten.records, *analysis.records)]
            return _stop

        return capture_aten(
            gm,
            example_inputs,
            forward=compile_graph,
            backward=compile_graph,
            inference=compile_graph,
            decompositions=decomposition_table(),
        )


def _stop(*args: Any) -> Any:
    raise _Captured


def measure_passes(shape: Gpt2Shape, layers: Sequence[int]) -> Measured:
    """Capture prefill and decode of a GPT-2 at each number of layers, and time passes and capture.

    Raises:
        GenieError: transformers is not installed.
    """
    _capture(2, shape)  # imports and first-time work of both sides
    times = [measured for count in layers for measured in _capture(count, shape)]
    return Measured(_figures(times), {"captures": [asdict(measured) for measured in times]})


def _figures(times: Sequence[PassTimes]) -> list[Figure]:
    figures = [
        at_most_times(
            f"all passes, {it.phase} of {it.layers} layers, {it.n_nodes} nodes; floor: Dynamo and AOTAutograd",
            it.passes_s * 1e3, it.capture_s * 1e3, "ms", _SHARE,
        )
        for it in times
    ]  # fmt: skip
    for phase in dict.fromkeys(it.phase for it in times):
        first, *_, last = (it for it in (*times, *times) if it.phase == phase)
        name = f"a node of {phase} in all passes, {last.layers} layers; floor: {first.layers} layers"
        figures.append(at_most_times(name, _per_node(last), _per_node(first), "us", _GROWTH))
    return figures


def _per_node(times: PassTimes) -> float:
    return times.passes_s / times.n_nodes * 1e6


def _capture(layers: int, shape: Gpt2Shape) -> list[PassTimes]:
    model, past = _model_without_memory(layers, shape)
    ids = torch.ones(1, 7, dtype=torch.long)
    steps: dict[str, dict[str, Any]] = {
        "prefill": {"input_ids": ids},
        "decode": {"input_ids": ids[:, :1], "past_key_values": past},
    }
    return [_timed(model, layers, phase, inputs) for phase, inputs in steps.items()]


def _timed(model: Any, layers: int, phase: str, inputs: dict[str, Any]) -> PassTimes:
    torch.compiler.reset()
    watch = _Watch()
    compiled: Any = torch.compile(model.forward, backend=watch.backend)
    gc.collect()
    gc.disable()  # a collection of all that Dynamo makes would land on either side by chance
    started = time.process_time()
    try:
        with torch.no_grad():
            compiled(**inputs, use_cache=True)
    except _Captured:
        pass
    finally:
        gc.enable()
    capture_s = time.process_time() - started - watch.passes_s
    return PassTimes(layers, phase, watch.n_nodes, capture_s, watch.passes_s, tuple(watch.by_pass))


def _model_without_memory(layers: int, shape: Gpt2Shape) -> tuple[Any, Any]:
    """Return a GPT-2 whose weights are reserved and never touched, and a cache of seven tokens for it."""
    config = gpt2_config(replace(shape, layers=layers))
    from transformers import DynamicCache, GPT2LMHeadModel

    with torch.device("meta"):
        model = GPT2LMHeadModel(config)
    model.to_empty(device="cpu").eval()
    past = DynamicCache(config=config)
    for layer in range(layers):
        keys = torch.zeros(1, shape.heads, 7, shape.embd // shape.heads)
        past.update(keys, keys.clone(), layer)
    return model, past
