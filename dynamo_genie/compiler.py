"""The staircase: Dynamo graph -> ATen graph -> annotated, portable graph -> Program -> something callable."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch.fx import GraphModule

from dynamo_genie.calls.graph import CompiledGraph, Place
from dynamo_genie.calls.in_parts import InParts
from dynamo_genie.calls.local import LocalGraph
from dynamo_genie.calls.placing import OnOneDaemon
from dynamo_genie.calls.plan import plan_calls
from dynamo_genie.calls.watched import Watched
from dynamo_genie.connections.connections import CONNECTIONS
from dynamo_genie.device.devices import DEVICES
from dynamo_genie.device_name import NAME
from dynamo_genie.errors import EngineWarning, OptionError
from dynamo_genie.explain.observers import Watch, watch_for
from dynamo_genie.lowering.decompositions import decomposition_table
from dynamo_genie.lowering.graph import lower
from dynamo_genie.lowering.input_origins import find_model_inputs, origins_of
from dynamo_genie.lowering.output_shapes import shapes_of
from dynamo_genie.lowering.rewrites import LAYOUT_REWRITES, REWRITES
from dynamo_genie.lowering.unrunnable import find_unrunnable
from dynamo_genie.observe import GraphObserver
from dynamo_genie.options import Options
from dynamo_genie.passes.graphs.origins import Origins
from dynamo_genie.passes.graphs.pipeline import Pass, run_passes
from dynamo_genie.passes.placement.ordering import writes_inputs
from dynamo_genie.passes.understanding.analysis import analyse
from dynamo_genie.tensor.any_kind import take_any_kind
from dynamo_genie.tensor.higher_order import take_remote_operands
from dynamo_genie.tensor.remote_tensor import IN_OUR_CALL, RemoteTensor, share_memory
from dynamo_genie.torch_internals.capture import capture_aten, forward_metadata
from dynamo_genie.torch_internals.guarded_memory import CPU


def compile_graph(gm: GraphModule, example_inputs: Sequence[Any], options: Options) -> Callable[..., Any]:
    """Return a function that runs a Dynamo graph, and its backward, in a daemon, or here in mode `local`.

    Raises:
        UnsupportedOperator: The graph holds an operator that no daemon runs; its message has the source line.
        OptionError: The graph's inputs live on a device that is neither the CPU nor one of ours.
    """
    if options.mode.remote:
        places = _places(gm, example_inputs)
        if len(places) > 1:
            return _operator_by_operator(gm, places)
        options = _where_inputs_are(example_inputs, options)
    take_remote_operands()
    model, leaves = find_model_inputs(gm, example_inputs), _local_leaves(example_inputs)
    capture = _Capture(options, model, leaves, watch_for(options))
    example_inputs = take_any_kind(gm, example_inputs)
    compiled = capture_aten(
        gm,
        example_inputs,
        forward=capture.training_forward,
        backward=capture.backward,
        inference=capture.inference,
        decompositions=decomposition_table(),
    )
    if not options.mode.remote:
        return compiled
    return _called(_safe_with_aliases(gm, compiled) if capture.mutates else compiled)


def _called(compiled: Callable[..., Any]) -> Callable[..., Any]:
    """Let remote tensors know that it is we who ask for their carriers."""

    def run(*args: Any) -> Any:
        token = IN_OUR_CALL.set(True)
        try:
            return compiled(*args)
        finally:
            IN_OUR_CALL.reset(token)

    return run


def _safe_with_aliases(gm: GraphModule, compiled: Callable[..., Any]) -> Callable[..., Any]:
    """Run a graph that writes into its inputs operator by operator when remote inputs share memory.

    AOTAutograd cannot see that two remote tensors view one memory, and would read from one what was there before
    the other was written. The daemon, running the operators in order on real views, gets it right.
    """

    def run(*args: Any) -> Any:
        return gm(*args) if share_memory(args) else compiled(*args)

    return run


class _Capture:
    """Receives the ATen graphs of one Dynamo graph from AOTAutograd: a forward, later perhaps its backward."""

    def __init__(self, options: Options, model: Origins, leaves: frozenset[int], watch: Watch) -> None:
        self._options = options
        self._model = model
        self._leaves = leaves
        self._watch = watch
        self._resident: frozenset[int] = frozenset()
        self.mutates = False

    def inference(self, gm: GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        """Compile a graph without a backward."""
        return self._forward(gm, None)

    def training_forward(self, gm: GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        """Compile a forward graph; what it saves for backward comes after the results that the user sees."""
        metadata = forward_metadata()
        return self._forward(gm, metadata.n_returns if metadata is not None else None)

    def _forward(self, gm: GraphModule, n_results: int | None) -> Callable[..., Any]:
        metadata = forward_metadata()
        if metadata is not None:
            placeholders = gm.graph.find_nodes(op="placeholder")
            self._resident = frozenset(i for i in metadata.static_inputs if _is_sent(placeholders[i].meta.get("val")))
        kind: Literal["inference", "forward"] = "inference" if n_results is None else "forward"
        observer = self._watch(kind)
        gm = _understand(gm, origins_of(gm, self._model, kind, n_results), observer)
        return self._compile(gm, self._resident, frozenset(), n_results, observer)

    def backward(self, gm: GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        """Compile a backward graph: its result i is the gradient of the forward's input i."""
        observer = self._watch("backward")
        gm = _understand(gm, origins_of(gm, self._model, "backward"), observer)
        return self._compile(gm, frozenset(), self._resident | self._leaves, None, observer, backward=True)

    def _compile(
        self,
        gm: GraphModule,
        resident: frozenset[int],
        gradients: frozenset[int],
        n_results: int | None,
        observer: GraphObserver | None,
        *,
        backward: bool = False,
    ) -> Callable[..., Any]:
        mode = self._options.mode
        if not mode.remote:
            return LocalGraph(gm)
        options = self._options
        unrunnable = find_unrunnable(gm)
        if unrunnable and options.unsupported == "error":
            raise next(iter(unrunnable.values()))
        in_parts = options.several or unrunnable is not None
        if not in_parts:  # parts get their layout once they are apart
            gm = _rewrite(gm, LAYOUT_REWRITES, observer)
        plan = plan_calls(
            gm,
            mode,
            options.engine,
            resident,
            n_results,
            gradients,
            sampled=options.untracked_weights == "sample",
            plain=options.results == "local",
            immediate=options.immediate,
            backward=backward,
        )
        shapes = shapes_of(gm)
        place: Place
        if in_parts:
            self.mutates = self.mutates or writes_inputs(gm)
            place = InParts(gm, plan, options, unrunnable)
        else:
            lowered = lower(gm, facts=mode.understood)
            self.mutates = self.mutates or bool(lowered.program.mutated_inputs)
            place = OnOneDaemon(lowered, plan, shapes, partial(CONNECTIONS.get, options))
        graph = CompiledGraph(shapes, plan, place)
        return graph if observer is None else Watched(graph, gm, observer)


def _understand(gm: GraphModule, origins: Origins, observer: GraphObserver | None) -> GraphModule:
    """Rewrite what belongs to one kind of device, and note on each node what it is."""
    if observer is not None:
        observer.captured(gm)
    gm = _rewrite(gm, REWRITES, observer)
    analysis = analyse(gm, origins, observer.passed if observer is not None else None)
    if observer is not None:
        observer.analysed(gm, analysis)
    return gm


def _rewrite(gm: GraphModule, rewrites: Sequence[Pass], observer: GraphObserver | None) -> GraphModule:
    return run_passes(gm, rewrites, observer.passed if observer is not None else None).gm


def _local_leaves(example_inputs: Sequence[Any]) -> frozenset[int]:
    """Return the positions of local tensors on which autograd keeps their gradients."""
    return frozenset(
        i
        for i, value in enumerate(example_inputs)
        if isinstance(value, torch.Tensor)
        and not isinstance(value, RemoteTensor)
        and value.requires_grad
        and value.is_leaf
    )


def _is_sent(value: Any) -> bool:
    """Whether a parameter or buffer must be sent, and is kept there; one on the device is there."""
    return isinstance(value, torch.Tensor) and value.device == CPU


def _places(gm: GraphModule, example_inputs: Sequence[Any]) -> list[torch.device]:
    """Return the devices of ours on which tensors of a Dynamo graph are, in the order in which they appear."""
    values = [*example_inputs, *(node.meta.get("example_value") for node in gm.graph.nodes)]
    devices = [value.device for value in values if isinstance(value, torch.Tensor) and value.device.type == NAME]
    return list(dict.fromkeys(devices))


def _operator_by_operator(gm: GraphModule, places: Sequence[torch.device]) -> Callable[..., Any]:
    """Run a graph whose tensors are on several devices as eager code runs: each operator where its tensors are."""
    warnings.warn(
        f"a graph with tensors on {' and on '.join(map(str, places))} runs operator by operator; compile the parts of "
        "the model that are on one device by themselves",
        EngineWarning,
        stacklevel=2,
    )
    return gm


def _where_inputs_are(example_inputs: Sequence[Any], options: Options) -> Options:
    """Return the options with which a graph runs where its inputs are: on their device, if they are on one of ours."""
    places = dict.fromkeys(value.device for value in example_inputs if isinstance(value, torch.Tensor))
    places.pop(CPU, None)
    other = next((place for place in places if place.type != NAME), None)
    if other is not None:
        raise OptionError(
            f"backend 'genie' runs models whose tensors are on the CPU or on {NAME}, and got one on {other}; leave the "
            f"model where it was made, or move it with .to({NAME!r})"
        )
    return DEVICES.options(next(iter(places)).index, options) if places else options
