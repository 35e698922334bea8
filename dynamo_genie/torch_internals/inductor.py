"""TorchInductor as a compiler of single graphs. Import it when it is wanted: that takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch._inductor import config
from torch._inductor.compile_fx import compile_fx
from torch.fx import GraphModule

from dynamo_genie.torch_internals.probe import Probe, takes


def inductor_compile(graph: GraphModule, inputs: Sequence[torch.Tensor]) -> Callable[..., Any]:
    """Return `graph` compiled in this thread, without subprocesses, for inputs like these, which may be fake.

    Relies on `compile_fx` taking an ATen graph, and leaving writes to inputs writes to inputs.
    """
    with config.patch(compile_threads=1), torch.no_grad():
        return cast("Callable[..., Any]", compile_fx(graph, list(inputs)))


PROBES = (
    Probe("torch._inductor.config", "keeps compilers out of subprocesses", lambda: config.compile_threads),
    Probe(
        "torch._inductor.compile_fx.compile_fx", "compiles programs in a daemon", lambda: takes(compile_fx, "model_")
    ),
)
