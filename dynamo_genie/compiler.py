"""The staircase: Dynamo graph -> ATen graph -> annotated, portable graph -> Program -> something callable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch._functorch import config as functorch_config
from torch._functorch.aot_autograd import aot_module_simplified
from torch._guards import TracingContext
from torch.fx import GraphModule

from dynamo_genie.call_plan import plan_calls
from dynamo_genie.compiled_graph import CompiledGraph
from dynamo_genie.connections import CONNECTIONS
from dynamo_genie.decompositions import decomposition_table
from dynamo_genie.errors import OptionError
from dynamo_genie.input_origins import ModelInputs, find_model_inputs, origins_of
from dynamo_genie.lowering import lower
from dynamo_genie.options import Options
from dynamo_genie.passes.analysis import analyse
from dynamo_genie.passes.pipeline import run_passes
from dynamo_genie.placed_graph import PlacedGraph
from dynamo_genie.remote_tensor import RemoteTensor
from dynamo_genie.rewrites import LAYOUT_REWRITES, REWRITES


def compile_graph(gm: GraphModule, example_inputs: Sequence[Any], options: Options) -> Callable[..., Any]:
    """Return a function that runs a Dynamo graph, and its backward, in a daemon.

    Raises:
        UnsupportedOperator: The graph holds an operator that no daemon runs; its message has the source line.
        OptionError: The graph's inputs live on a device that is not the CPU.
    """
    _require_cpu(example_inputs)
    capture = _Capture(options, find_model_inputs(gm, example_inputs))
    with functorch_config.patch(unlift_effect_tokens=True):  # tokens stay inside the graph, where a pass drops them
        compiled = aot_module_simplified(
            gm,
            example_inputs,
            fw_compiler=capture.training_forward,
            bw_compiler=capture.backward,
            inference_compiler=capture.inference,
            decompositions=decomposition_table(),  # type: ignore[arg-type]  # torch's own tables have this wider type
            keep_inference_input_mutations=True,
        )
    return _safe_with_aliases(gm, compiled) if capture.mutates else compiled


def _safe_with_aliases(gm: GraphModule, compiled: Callable[..., Any]) -> Callable[..., Any]:
    """Run a graph that writes into its inputs operator by operator when remote inputs share memory.

    AOTAutograd cannot see that two remote tensors view one memory, and would read from one what was there before
    the other was written. The daemon, running the operators in order on real views, gets it right.
    """

    def run(*args: Any) -> Any:
        handles = [arg.handle for arg in args if isinstance(arg, RemoteTensor) and arg.handle is not None]
        roots = [(handle.session, handle.root) for handle in handles]
        return gm(*args) if len(set(roots)) < len(roots) else compiled(*args)

    return run


class _Capture:
    """Receives the ATen graphs of one Dynamo graph from AOTAutograd: a forward, later perhaps its backward."""

    def __init__(self, options: Options, model: ModelInputs) -> None:
        self._options = options
        self._model = model
        self._resident: frozenset[int] = frozenset()
        self.mutates = False

    def inference(self, gm: GraphModule, example_inputs: Sequence[Any]) -> CompiledGraph | PlacedGraph:
        """Compile a graph without a backward."""
        return self._forward(gm, None)

    def training_forward(self, gm: GraphModule, example_inputs: Sequence[Any]) -> CompiledGraph | PlacedGraph:
        """Compile a forward graph; what it saves for backward comes after the results that the user sees."""
        metadata = _forward_metadata()
        return self._forward(gm, metadata.num_forward_returns if metadata is not None else None)

    def _forward(self, gm: GraphModule, n_results: int | None) -> CompiledGraph | PlacedGraph:
        metadata = _forward_metadata()
        if metadata is not None:
            self._resident = frozenset(metadata.static_input_indices or ())
        gm = run_passes(gm, REWRITES).gm
        placeholders = gm.graph.find_nodes(op="placeholder")
        resident = frozenset(i for i in self._resident if isinstance(placeholders[i].meta.get("val"), torch.Tensor))
        kind: Literal["inference", "forward"] = "inference" if n_results is None else "forward"
        analyse(gm, origins_of(gm, self._model, kind, n_results))
        return self._compile(gm, resident, frozenset(), n_results)

    def backward(self, gm: GraphModule, example_inputs: Sequence[Any]) -> CompiledGraph | PlacedGraph:
        """Compile a backward graph: its result i is the gradient of the forward's input i."""
        gm = run_passes(gm, REWRITES).gm
        analyse(gm, origins_of(gm, self._model, "backward"))
        return self._compile(gm, frozenset(), self._resident, None)

    def _compile(
        self, gm: GraphModule, resident: frozenset[int], fetched: frozenset[int], n_results: int | None
    ) -> CompiledGraph | PlacedGraph:
        several = len(self._options.daemons) > 1
        if not several:  # the parts of a spread graph get their layout once they are apart
            gm = run_passes(gm, LAYOUT_REWRITES).gm
        lowered = lower(gm)  # also of a graph that will be spread: what no daemon runs is refused here
        self.mutates = self.mutates or bool(lowered.program.mutated_inputs)
        plan = plan_calls(gm, resident, n_results, fetched)
        if several:
            return PlacedGraph(gm, plan, self._options)
        return CompiledGraph(gm, lowered, plan, partial(CONNECTIONS.get, self._options))


def _forward_metadata() -> Any:
    context = TracingContext.try_get()
    return context.fw_metadata if context is not None else None


def _require_cpu(example_inputs: Sequence[Any]) -> None:
    for value in example_inputs:
        if isinstance(value, torch.Tensor) and value.device.type != "cpu":
            raise OptionError(
                f"backend 'genie' runs models whose tensors are on the CPU, and got one on {value.device}; "
                "leave the model where it was made: the daemon puts it on its accelerator"
            )
