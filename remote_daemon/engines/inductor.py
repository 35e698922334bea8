"""TorchInductor as a compiler of programs. Loaded when it is wanted: importing it takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch.fx import GraphModule


def compile_with_inductor(graph: GraphModule, inputs: Sequence[torch.Tensor]) -> Callable[..., Any]:
    """Return `graph` compiled for inputs like these; writes to inputs stay writes to inputs."""
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx

    # subprocesses would outlive a worker that is killed, and the worker's own thread is in the background already
    with config.patch(compile_threads=1), torch.no_grad():
        return cast("Callable[..., Any]", compile_fx(graph, list(inputs)))
