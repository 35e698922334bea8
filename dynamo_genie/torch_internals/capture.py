"""AOTAutograd: from the graph that Dynamo captured to ATen graphs of a forward and a backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import torch
from torch._decomp import core_aten_decompositions
from torch._functorch import config as functorch_config
from torch._functorch.aot_autograd import aot_module_simplified
from torch._guards import TracingContext
from torch.fx import GraphModule, Node

from dynamo_genie.torch_internals.effect_tokens import drop_dead_tokens
from dynamo_genie.torch_internals.operators import OperatorBase
from dynamo_genie.torch_internals.probe import Probe, require

GraphCompiler: TypeAlias = Callable[[GraphModule, Sequence[Any]], Callable[..., Any]]
"""Receives an ATen graph with fake inputs, and returns what runs it on a list of real ones."""


def capture_aten(
    gm: GraphModule,
    example_inputs: Sequence[Any],
    *,
    forward: GraphCompiler,
    backward: GraphCompiler,
    inference: GraphCompiler,
    decompositions: Mapping[OperatorBase, Callable[..., Any]],
) -> Callable[..., Any]:
    """Trace a Dynamo graph into ATen graphs, hand them to the compilers, and return what runs them.

    Relies on AOTAutograd's entry for backends, `aot_module_simplified`: a graph that needs no gradient goes to
    `inference` alone, with its writes to inputs left in it (`keep_inference_input_mutations`); and on the setting
    `unlift_effect_tokens`, under which tokens that order effects stay inside the graph instead of becoming inputs.
    """
    forward, backward, inference = map(_without_tokens, (forward, backward, inference))
    with functorch_config.patch(unlift_effect_tokens=True):
        compiled: Callable[..., Any] = aot_module_simplified(
            gm,
            example_inputs,
            fw_compiler=forward,  # type: ignore[arg-type]  # torch names the second argument
            bw_compiler=backward,  # type: ignore[arg-type]
            inference_compiler=inference,  # type: ignore[arg-type]
            decompositions=dict(decompositions),  # type: ignore[arg-type]  # torch's own tables have this wider type
            keep_inference_input_mutations=True,
        )
    return compiled


def _without_tokens(compiler: GraphCompiler) -> GraphCompiler:
    def compile_graph(gm: GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        drop_dead_tokens(gm)
        return compiler(gm, example_inputs)

    return compile_graph


@dataclass(frozen=True)
class ForwardMetadata:
    """What AOTAutograd knows of the graph it hands to a compiler.

    Attributes:
        n_returns: The results of a forward graph that are not saved for its backward.
        static_inputs: Positions of the inputs that keep their memory from call to call: parameters and buffers.
    """

    n_returns: int
    static_inputs: frozenset[int]


def forward_metadata() -> ForwardMetadata | None:
    """Return what is known of the graph that is being compiled; None outside of a capture.

    Relies on `TracingContext.fw_metadata` with `num_forward_returns` and `static_input_indices`.
    """
    context = TracingContext.try_get()
    metadata = context.fw_metadata if context is not None else None
    if metadata is None:
        return None
    return ForwardMetadata(metadata.num_forward_returns, frozenset(metadata.static_input_indices or ()))


def core_decompositions() -> dict[OperatorBase, Callable[..., Any]]:
    """Return PyTorch's decompositions into its core operators, by operator."""
    return dict(core_aten_decompositions())


class _Boxed:
    """A graph that takes its inputs as one list, as the marker `_boxed_call` tells AOTAutograd."""

    _boxed_call = True

    def __init__(self, gm: GraphModule) -> None:
        self._gm = gm

    def __call__(self, args: list[Any]) -> Any:
        return self._gm(*args)


@dataclass(frozen=True)
class Sample:
    """An ATen graph that a probe looks at, and what was known of it while it was compiled."""

    inputs: tuple[Node, ...]
    metadata: ForwardMetadata | None


@cache
def capture_samples() -> dict[str, Sample]:
    """Train a small model for a step, and return its ATen graphs by kind; once a process, since Dynamo counts them."""
    samples: dict[str, Sample] = {}

    def compiler(kind: str) -> GraphCompiler:
        def compile_graph(gm: GraphModule, example_inputs: Sequence[Any]) -> _Boxed:
            samples[kind] = Sample(tuple(gm.graph.find_nodes(op="placeholder")), forward_metadata())
            return _Boxed(gm)

        return compile_graph

    def backend(gm: GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        kinds = {kind: compiler(kind) for kind in ("forward", "backward", "inference")}
        return capture_aten(gm, example_inputs, **kinds, decompositions={})

    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    compiled = torch.compile(model, backend=backend)
    compiled(torch.ones(2, 2)).sum().backward()
    with torch.no_grad():
        compiled(torch.ones(2, 2))
    return samples


def _check_capture() -> None:
    kinds = sorted(capture_samples())
    require(kinds == ["backward", "forward", "inference"], f"a graph of each kind arrives, not {kinds}")


def _check_metadata() -> None:
    metadata = capture_samples()["forward"].metadata
    require(metadata is not None, "the forward graph has metadata while it is compiled")
    require(metadata is not None and metadata.n_returns >= 1, "a forward graph returns at least its result")
    require(metadata is not None and len(metadata.static_inputs) >= 4, "weights and biases are static inputs")
    require(forward_metadata() is None, "there is no metadata outside of a capture")


def _check_decompositions() -> None:
    gelu = torch.ops.aten.gelu_backward.default
    require(gelu in core_decompositions(), "the core table has a decomposition of gelu_backward")


PROBES = (
    Probe(
        "torch._functorch.aot_autograd.aot_module_simplified",
        "captures the ATen graphs of a forward and a backward",
        _check_capture,
    ),
    Probe(
        "torch._functorch.config",
        "keeps the tokens that order effects inside a graph",
        lambda: functorch_config.patch(unlift_effect_tokens=True),
    ),
    Probe("torch._guards.TracingContext", "tells weights from other inputs of a graph", _check_metadata),
    Probe("torch._decomp.core_aten_decompositions", "takes operators apart that no daemon runs", _check_decompositions),
)
