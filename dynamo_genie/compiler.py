"""The staircase: Dynamo graph -> ATen graph -> annotated, portable graph -> Program -> something callable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch._functorch import config as functorch_config
from torch._functorch.aot_autograd import aot_module_simplified
from torch._guards import TracingContext
from torch.fx import GraphModule, Node

from dynamo_genie.compiled_graph import CallPlan, CompiledGraph
from dynamo_genie.connection import CONNECTIONS, Connection
from dynamo_genie.decompositions import decomposition_table
from dynamo_genie.errors import OptionError
from dynamo_genie.lowering import lower
from dynamo_genie.options import Options
from dynamo_genie.passes.effects import drop_effect_tokens
from dynamo_genie.passes.portable import make_portable


def compile_graph(gm: GraphModule, example_inputs: Sequence[Any], options: Options) -> Callable[..., Any]:
    """Return a function that runs a Dynamo graph, and its backward, in a daemon.

    Raises:
        UnsupportedOperator: The graph holds an operator that no daemon runs; its message has the source line.
        OptionError: The graph's inputs live on a device that is not the CPU.
    """
    _require_cpu(example_inputs)
    capture = _Capture(partial(CONNECTIONS.get, options))
    with functorch_config.patch(unlift_effect_tokens=True):  # tokens stay inside the graph, where a pass drops them
        return aot_module_simplified(  # type: ignore[no-any-return]
            gm,
            example_inputs,
            fw_compiler=capture.forward,
            bw_compiler=capture.backward,
            inference_compiler=capture.forward,
            decompositions=decomposition_table(),
            keep_inference_input_mutations=True,
        )


class _Capture:
    """Receives the ATen graphs of one Dynamo graph from AOTAutograd: a forward, later perhaps its backward."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._resident: frozenset[int] = frozenset()

    def forward(self, gm: GraphModule, example_inputs: Sequence[Any]) -> CompiledGraph:
        context = TracingContext.try_get()
        metadata = context.fw_metadata if context is not None else None
        self._resident = frozenset(metadata.static_input_indices or ()) if metadata is not None else frozenset()
        return self._compile(gm, self._resident, frozenset())

    def backward(self, gm: GraphModule, example_inputs: Sequence[Any]) -> CompiledGraph:
        """Compile a backward graph: its output i is the gradient of the forward's input i."""
        return self._compile(gm, frozenset(), self._resident)

    def _compile(self, gm: GraphModule, resident: frozenset[int], fetched: frozenset[int]) -> CompiledGraph:
        portable = make_portable(drop_effect_tokens(gm).graph_module).graph_module
        placeholders = portable.graph.find_nodes(op="placeholder")
        outputs = list(portable.graph.output_node().args[0])
        tensors = frozenset(i for i in resident if isinstance(placeholders[i].meta.get("val"), torch.Tensor))
        plan = CallPlan(
            resident=tensors,
            input_kinds=("input",) * len(placeholders),
            output_kinds=("output",) * len(outputs),
            passed_through=tuple(_position(output, placeholders) for output in outputs),
            fetched=frozenset(i for i in fetched if i < len(outputs) and isinstance(outputs[i], Node)),
        )
        return CompiledGraph(portable, lower(portable), plan, self._connect)


def _position(output: Any, placeholders: Sequence[Node]) -> int:
    return placeholders.index(output) if isinstance(output, Node) and output.op == "placeholder" else -1


def _require_cpu(example_inputs: Sequence[Any]) -> None:
    for value in example_inputs:
        if isinstance(value, torch.Tensor) and value.device.type != "cpu":
            raise OptionError(
                f"backend 'genie' runs models whose tensors are on the CPU, and got one on {value.device}; "
                "leave the model where it was made: the daemon puts it on its accelerator"
            )
