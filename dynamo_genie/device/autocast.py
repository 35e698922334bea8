"""Autocast on the device: the same operators in the same dtypes as on the CPU, so that a model gives the same bits.

Which operators PyTorch casts on the CPU it is asked; how, its documentation says
(https://docs.pytorch.org/docs/stable/amp.html#cpu-op-specific-behavior). A weight is cast once while a context lasts,
however often it is used: so its gradients are added in the lower dtype, which rounds otherwise than adding them later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from weakref import ref

import torch

from dynamo_genie.device.device_tensor import DeviceTensor
from dynamo_genie.device_name import NAME
from dynamo_genie.torch_internals.device.kernels import cast_on_the_cpu, without_autocast
from dynamo_genie.torch_internals.opaque import opaque
from dynamo_genie.torch_internals.operators import OpOverload
from dynamo_genie.torch_internals.pytree import tree_leaves, tree_map_only
from dynamo_genie.torch_internals.tensors import is_view

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


class CastWeights:
    """Weights in a lower dtype, each cast once, until PyTorch drops what it cast itself."""

    def __init__(self) -> None:
        self._cast: dict[tuple[int, torch.dtype], tuple[ref[torch.Tensor], torch.Tensor]] = {}

    def to(self, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor in a dtype; a weight that was cast before as it is then."""
        if tensor.dtype == dtype or not _is_weight(tensor) or dtype != torch.get_autocast_dtype(NAME):
            return tensor.to(dtype)
        weight, cast = self._cast.get((id(tensor), dtype), (None, None))
        if cast is not None and weight is not None and weight() is tensor:
            return cast
        with torch.enable_grad():  # the next to use it may want a gradient, and PyTorch does so, too
            cast = tensor.to(dtype)
        self._cast[id(tensor), dtype] = ref(tensor), cast
        return cast

    @opaque
    def drop(self) -> None:
        """Let all be cast anew."""
        self._cast.clear()


def _is_weight(tensor: torch.Tensor) -> bool:
    """Say whether PyTorch would keep what is cast of a tensor; what a graph is traced with it would not."""
    return (
        isinstance(tensor, DeviceTensor)
        and not tensor.traced
        and tensor.dtype == torch.float32
        and tensor.requires_grad
        and tensor.is_leaf
        and not is_view(tensor)
        and torch.is_autocast_cache_enabled()
        and not torch.is_inference_mode_enabled()
    )


def casting_kernels(weights: CastWeights) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Give the kernels of all operators that are cast."""
    for operator in cast_on_the_cpu():
        name = operator._schema.name.removeprefix("aten::")
        dtype = _of_context if name in LOWER else _widest if name in WIDEST else _float32
        yield operator._name.removeprefix("aten::"), opaque(partial(_cast, operator, dtype, weights))


def _of_context(tensors: Sequence[torch.Tensor]) -> torch.dtype:
    return torch.get_autocast_dtype(NAME)


def _float32(tensors: Sequence[torch.Tensor]) -> torch.dtype:
    return torch.float32


def _widest(tensors: Sequence[torch.Tensor]) -> torch.dtype:
    wide = any(tensor.dtype == torch.float32 for tensor in tensors)
    return torch.float32 if wide else torch.get_autocast_dtype(NAME)


def _cast(
    operator: OpOverload,
    choose: Callable[[Sequence[torch.Tensor]], torch.dtype],
    weights: CastWeights,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Run an operator with its floating point arguments in another dtype; what is of double precision stays."""
    with without_autocast():
        dtype = choose(
            [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor) and _is_cast(leaf)]
        )
        args, kwargs = tree_map_only(torch.Tensor, lambda t: weights.to(t, dtype) if _is_cast(t) else t, (args, kwargs))
        return operator(*args, **kwargs)


def _is_cast(tensor: torch.Tensor) -> bool:
    return tensor.device.type == NAME and tensor.is_floating_point() and tensor.dtype != torch.float64
