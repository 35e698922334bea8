"""AOTAutograd: from the graph that Dynamo captured to ATen graphs of a forward and a backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import FrameType
from typing import Any, TypeAlias

import torch
import torch._prims
from torch._decomp import core_aten_decompositions
from torch._dynamo.symbolic_convert import InstructionTranslator
from torch._functorch import config as functorch_config
from torch._functorch.aot_autograd import aot_module_simplified
from torch._guards import TracingContext
from torch._inductor import inductor_prims
from torch.fx import GraphModule, Node

from dynamo_genie.torch_internals.effect_tokens import drop_dead_tokens
from dynamo_genie.torch_internals.opaque import caller_past_opaque, opaque
from dynamo_genie.torch_internals.operators import OperatorBase, OpOverload
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
    Dynamo hides what a backend returns from its frame evaluator; a backward runs wherever `backward()` is called.
    """
    forward, backward, inference = map(_without_tokens, (forward, backward, inference))
    with functorch_config.patch(unlift_effect_tokens=True):
        compiled: Callable[..., Any] = aot_module_simplified(
            gm,
            example_inputs,
            fw_compiler=forward,  # type: ignore[arg-type]  # torch names the second argument
            bw_compiler=_hidden(backward),  # type: ignore[arg-type]
            inference_compiler=inference,  # type: ignore[arg-type]
            decompositions=dict(decompositions),  # type: ignore[arg-type]  # torch's own tables have this wider type
            keep_inference_input_mutations=True,
        )
    return compiled


def _hidden(compiler: GraphCompiler) -> GraphCompiler:
    """Hide from Dynamo the compiler of a backward, which may first run inside `backward()`, and what it returns.

    Relies on `_boxed_call`, which tells AOTAutograd that a function takes its inputs as one list.
    """

    @opaque
    def compile_graph(gm: GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        run: Any = opaque(compiler(gm, example_inputs))
        run._boxed_call = True
        return run  # type: ignore[no-any-return]

    return compile_graph


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


def is_tracing() -> bool:
    """Say whether Dynamo or AOTAutograd traces a graph on this thread. Relies on `TracingContext.try_get`."""
    return TracingContext.try_get() is not None


def capturing_backend() -> Callable[..., Any] | None:
    """Return the backend for which Dynamo captures a graph on this thread; None where it does not.

    Relies on `InstructionTranslator.current_tx`, `OutputGraph.compiler_fn`, and the names under which torch's own
    wrappers hold what they wrap.
    """
    capture = _capture()
    backend: Any = capture.output.compiler_fn if capture is not None else None
    while (inner := getattr(backend, "_torchdynamo_orig_backend", getattr(backend, "compiler_fn", None))) is not None:
        backend = inner
    return backend  # type: ignore[no-any-return]


def is_exporting() -> bool:
    """Say whether Dynamo captures for `torch.export`, which copies inputs. Relies on `InstructionTranslator.export`."""
    capture = _capture()
    return capture is not None and bool(capture.export)


def _capture() -> Any:
    """Return what translates a frame of the program on this thread, None where nothing does."""
    try:
        return InstructionTranslator.current_tx()
    except AttributeError:  # of a thread that never captured anything
        return None


def wants_elements(frame: FrameType) -> bool:
    """Say whether the code that asks for the inner tensor of a subclass is about to run a compiled graph on it.

    Relies on AOTAutograd taking subclasses apart in its own files, or in code that it generates and names after them.
    Guards ask too, from C++, and while a graph is traced only layouts matter, but to an export.
    """
    if is_exporting():
        return True
    asking = caller_past_opaque(frame)
    return asking is not None and "_functorch" in asking.f_code.co_filename and not is_tracing()


def is_saved_unchecked(node: Node) -> bool:
    """Whether a node is saved for backward in a way that autograd does not check for writes: as an attribute of `ctx`.

    Relies on the mark `saved_tensor_with_no_vc_check` in `Node.meta`.
    """
    return bool(node.meta.get("saved_tensor_with_no_vc_check", False))


def core_decompositions() -> dict[OperatorBase, Callable[..., Any]]:
    """Return PyTorch's decompositions into its core operators, by operator."""
    return dict(core_aten_decompositions())


def prim_decompositions() -> dict[OperatorBase, Callable[..., Any]]:
    """Return what each of PyTorch's primitives is in ATen, by operator: what eager PyTorch runs for it, bit for bit.

    Dynamo itself writes some into a graph, `fma` for `addcmul_(value=...)` above all. Relies on their `impl_aten`.
    """
    known = (*vars(torch._prims).values(), *vars(inductor_prims).values())
    return {prim: prim.impl_aten for prim in known if isinstance(prim, OpOverload) and hasattr(prim, "impl_aten")}


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
            require(is_tracing(), "a graph is traced while it is compiled")
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
    require(not is_tracing(), "nothing is traced outside of a capture")


class _KeepsByHand(torch.autograd.Function):
    """Keeps a tensor for its backward as an attribute."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.kept = x.sin()
        return x * 2

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        kept: torch.Tensor = ctx.kept
        return gradients[0] * kept


def _check_backend() -> None:
    seen: list[Any] = []

    def backend(gm: GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        seen.append(capturing_backend())
        return gm.forward

    torch.compile(lambda x: x + 1, backend=backend)(torch.ones(2))
    require(seen == [backend], "the backend is known while a graph is captured for it")
    require(not is_exporting(), "nothing is exported outside of an export")
    require(capturing_backend() is None, "and none outside of a capture")


def _check_unchecked() -> None:
    marked: list[str] = []

    def forward(gm: GraphModule, example_inputs: Sequence[Any]) -> _Boxed:
        outputs: Any = gm.graph.output_node().args[0]
        marked.extend(str(out.target) for out in outputs if isinstance(out, Node) and is_saved_unchecked(out))
        return _Boxed(gm)

    def backend(gm: GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        others = {kind: lambda gm, _: _Boxed(gm) for kind in ("backward", "inference")}
        return capture_aten(gm, example_inputs, forward=forward, **others, decompositions={})

    torch.compile(lambda x: _KeepsByHand.apply(x), backend=backend)(torch.ones(2, requires_grad=True))  # type: ignore[no-untyped-call]
    require(marked == ["aten.sin.default"], f"what is kept as an attribute is marked, and nothing else: {marked}")


def _check_decompositions() -> None:
    gelu = torch.ops.aten.gelu_backward.default
    require(gelu in core_decompositions(), "the core table has a decomposition of gelu_backward")


def _check_prims() -> None:
    prims = prim_decompositions()
    fma = prims[inductor_prims.fma]
    require(fma(torch.full((2,), 2.0), 3.0, torch.ones(2)).tolist() == [7.0, 7.0], "fma multiplies and adds")
    require(prims[torch.ops.prims.sin.default](torch.zeros(1)).item() == 0.0, "prims have what ATen runs for them")


_NEW = ("2.13.0",)

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
    Probe(
        "torch._dynamo.symbolic_convert.InstructionTranslator",
        "captures remote tensors as plain ones for this backend",
        _check_backend,
        _NEW,
    ),
    Probe("saved_tensor_with_no_vc_check", "tells what autograd does not check for writes", _check_unchecked),
    Probe("torch._guards.TracingContext", "tells weights from other inputs of a graph", _check_metadata),
    Probe(
        "torch._prims", "takes apart the primitives that Dynamo and reference implementations write", _check_prims, _NEW
    ),
    Probe(
        "torch._inductor.inductor_prims", "takes apart the primitives that Dynamo writes for optimizers", _check_prims
    ),
    Probe("torch._decomp.core_aten_decompositions", "takes operators apart that no daemon runs", _check_decompositions),
)
