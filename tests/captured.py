"""Captures what AOTAutograd makes of a function: the real ATen graphs that the passes and the lowering meet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._functorch.aot_autograd import aot_module_simplified
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.fx import GraphModule

from dynamo_genie.lowering.decompositions import decomposition_table

Replace = Callable[[GraphModule], Callable[..., Any]]


@dataclass
class Captured:
    """The graphs of one compiled function, in the order in which they were compiled."""

    forward: list[GraphModule] = field(default_factory=list)
    backward: list[GraphModule] = field(default_factory=list)

    @property
    def graphs(self) -> list[GraphModule]:
        return [*self.forward, *self.backward]


def capture(
    function: Callable[..., Any], replace: Replace = lambda gm: gm, *, dynamic: bool | None = None
) -> tuple[Callable[..., Any], Captured]:
    """Return `function` compiled so that `replace(graph)` runs in place of each graph, and what was captured."""
    captured = Captured()

    def compiler(found: list[GraphModule]) -> Any:
        def compile_graph(gm: GraphModule, inputs: Any) -> Callable[..., Any]:
            found.append(gm)
            with unset_fake_temporarily():
                return _boxed(replace(gm))

        return compile_graph

    def backend(gm: GraphModule, inputs: Any) -> Any:
        return aot_module_simplified(
            gm,
            inputs,
            fw_compiler=compiler(captured.forward),
            bw_compiler=compiler(captured.backward),
            decompositions=decomposition_table(),
            keep_inference_input_mutations=True,
        )

    torch._dynamo.reset()
    return torch.compile(function, backend=backend, dynamic=dynamic), captured


def _boxed(run: Callable[..., Any]) -> Callable[..., Any]:
    def call(args: list[Any]) -> Any:
        inputs = list(args)
        args.clear()
        return run(*inputs)

    call._boxed_call = True  # type: ignore[attr-defined]
    return call
