"""Captures a function as the backend does and analyses each of its graphs; remembers what it was called with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._functorch.aot_autograd import aot_module_simplified
from torch._guards import TracingContext
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.fx import GraphModule

from dynamo_genie.lowering.decompositions import decomposition_table
from dynamo_genie.lowering.input_origins import find_model_inputs, origins_of
from dynamo_genie.passes.graphs.origins import Origins
from dynamo_genie.passes.rewrites.portable import make_portable
from dynamo_genie.passes.understanding.analysis import Analysis, analyse


@dataclass
class Understood:
    """A graph, what was found out about it, and the tensors of its latest call."""

    gm: GraphModule
    origins: Origins
    analysis: Analysis
    inputs: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)


def understand(function: Callable[..., Any], **options: Any) -> tuple[Callable[..., Any], list[Understood]]:
    """Return `function` compiled, and the list that its graphs are appended to, in the order of their calls."""
    calls: list[Understood] = []

    def backend(gm: GraphModule, example_inputs: Any) -> Any:
        model = find_model_inputs(gm, example_inputs)

        def compile_as(kind: Any) -> Any:
            def compile_graph(graph: GraphModule, inputs: Any) -> Callable[..., Any]:
                metadata = TracingContext.get().fw_metadata
                n_results = metadata.num_forward_returns if kind == "forward" else None
                origins = origins_of(graph, model, kind, n_results)
                make_portable(graph)
                found = Understood(graph, origins, analyse(graph, origins))
                with unset_fake_temporarily():
                    return _recording(found, calls)

            return compile_graph

        return aot_module_simplified(
            gm,
            example_inputs,
            fw_compiler=compile_as("forward"),
            bw_compiler=compile_as("backward"),
            inference_compiler=compile_as("inference"),
            decompositions=decomposition_table(),
            keep_inference_input_mutations=True,
        )

    torch._dynamo.reset()
    return torch.compile(function, backend=backend, **options), calls


def _recording(found: Understood, calls: list[Understood]) -> Callable[..., Any]:
    def call(args: list[Any]) -> Any:
        found.inputs = list(args)
        args.clear()
        found.outputs = list(found.gm(*found.inputs))
        calls.append(found)
        return list(found.outputs)

    call._boxed_call = True  # type: ignore[attr-defined]
    return call


def place_of(tensor: Tensor) -> tuple[object, ...]:
    """Return what tells apart tensors that are alive at the same time."""
    return (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), *tensor.shape, *tensor.stride())
