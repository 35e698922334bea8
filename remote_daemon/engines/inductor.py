"""TorchInductor as a compiler of programs. Loaded when it is wanted: importing it takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import GraphModule


def compile_with_inductor(graph: GraphModule, inputs: Sequence[torch.Tensor]) -> Callable[..., Any]:
    """Return `graph` compiled for inputs like these; writes to inputs stay writes to inputs."""
    from dynamo_genie.torch_internals.inductor import inductor_compile

    # subprocesses would outlive a worker that is killed, and the worker's own thread is in the background already
    return inductor_compile(graph, inputs)
