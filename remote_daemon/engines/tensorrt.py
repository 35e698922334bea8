"""torch-tensorrt as a compiler of programs. An optional package, imported when it is wanted.

Written against its documented interface (`torch_tensorrt.dynamo.compile`); it has not been run yet.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import GraphModule

PACKAGE = "torch_tensorrt"


def tensorrt_missing() -> str:
    """Say why torch-tensorrt cannot be used here; empty where it can."""
    if importlib.util.find_spec(PACKAGE) is None:
        return "torch-tensorrt is not installed on the daemon's machine: pip install torch-tensorrt"
    return ""


def compile_with_tensorrt(graph: GraphModule, inputs: Sequence[torch.Tensor]) -> Callable[..., Any]:
    """Return `graph` as TensorRT engines, and PyTorch for what they cannot do, for inputs like these.

    Raises:
        ImportError: The package, or a library that it needs, is not there.
    """
    import torch_tensorrt

    # it measures kernels on real memory, and wants inputs that hold data
    samples = tuple(
        torch.zeros(i.shape, dtype=i.dtype, device=i.device).as_strided(i.shape, i.stride()) for i in inputs
    )
    exported = torch.export.export(graph, samples, strict=False)
    dtypes = {i.dtype for i in inputs if i.dtype.is_floating_point} or {torch.float32}
    compiled: Callable[..., Any] = torch_tensorrt.dynamo.compile(
        exported, arg_inputs=samples, enabled_precisions=dtypes, require_full_compilation=False
    )
    return compiled
