"""Autocast on the device: the same operators in the same dtypes as on the CPU, so that a model gives the same bits.

Which operators PyTorch casts on the CPU it is asked; how, its documentation says
(https://docs.pytorch.org/docs/stable/amp.html#cpu-op-specific-behavior). It keeps the lower form of a weight while a
context lasts; here a weight is cast in the daemon each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from dynamo_genie.device_name import NAME
from dynamo_genie.torch_internals.device.kernels import cast_on_the_cpu, without_autocast
from dynamo_genie.torch_internals.opaque import opaque
from dynamo_genie.torch_internals.operators import OpOverload
from dynamo_genie.torch_internals.pytree import tree_leaves, tree_map_only

LOWER = frozenset(
    {
        "_addmm_activation", "_convolution", "_native_multi_head_attention", "addbmm", "addmm", "baddbmm", "bmm",
        "conv1d", "conv2d", "conv3d", "conv_tbc", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
        "linalg_vecdot", "linear", "matmul", "mkldnn_rnn_layer", "mm", "prelu", "scaled_dot_product_attention",
    }
)  # fmt: skip
"""What runs in the dtype of the context."""

WIDEST = frozenset({"cat", "index_copy", "stack"})
"""What runs in the widest dtype of its arguments; all others run in float32."""


def casting_kernels() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Give the kernels of all operators that are cast."""
    for operator in cast_on_the_cpu():
        name = operator._schema.name.removeprefix("aten::")
        dtype = _of_context if name in LOWER else _widest if name in WIDEST else _float32
        yield operator._name.removeprefix("aten::"), opaque(partial(_cast, operator, dtype))


def _of_context(tensors: Sequence[torch.Tensor]) -> torch.dtype:
    return torch.get_autocast_dtype(NAME)


def _float32(tensors: Sequence[torch.Tensor]) -> torch.dtype:
    return torch.float32


def _widest(tensors: Sequence[torch.Tensor]) -> torch.dtype:
    wide = any(tensor.dtype == torch.float32 for tensor in tensors)
    return torch.float32 if wide else torch.get_autocast_dtype(NAME)


def _cast(
    operator: OpOverload, choose: Callable[[Sequence[torch.Tensor]], torch.dtype], *args: Any, **kwargs: Any
) -> Any:
    """Run an operator with its floating point arguments in another dtype; what is of double precision stays."""
    with without_autocast():
        dtype = choose(
            [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor) and _is_cast(leaf)]
        )
        args, kwargs = tree_map_only(torch.Tensor, lambda t: t.to(dtype) if _is_cast(t) else t, (args, kwargs))
        return operator(*args, **kwargs)


def _is_cast(tensor: torch.Tensor) -> bool:
    return tensor.device.type == NAME and tensor.is_floating_point() and tensor.dtype != torch.float64
