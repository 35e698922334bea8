"""Tensors below the public interface: subclasses without memory, views that reinterpret, identity of storages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch._C import _disabled_torch_function_impl as no_torch_function

from dynamo_genie.torch_internals.probe import Probe, require

__all__ = ["no_torch_function"]

TensorT = TypeVar("TensorT", bound=torch.Tensor)

_CPU = torch.device("cpu")


def wrapper_tensor(cls: type[TensorT], shape: Any, stride: Any, offset: Any, dtype: torch.dtype) -> TensorT:
    """Return a tensor of `cls` on the CPU that has a layout and no elements; sizes may be symbolic.

    Relies on `torch.Tensor._make_wrapper_subclass`, which calls no `__init__`. Such a class turns `__torch_function__`
    off with `no_torch_function`, and answers in `__torch_dispatch__`.
    """
    wrapper: TensorT = torch.Tensor._make_wrapper_subclass(
        cls, shape, strides=stride, storage_offset=offset, dtype=dtype, device=_CPU
    )
    return wrapper


def conjugate_view(tensor: torch.Tensor) -> torch.Tensor:
    """Return the view that reads the same bytes as conjugates (`is_conj`)."""
    return torch._conj(tensor)


def negative_view(tensor: torch.Tensor) -> torch.Tensor:
    """Return the view that reads the same bytes as negatives (`is_neg`)."""
    return torch._neg_view(tensor)


def copy_all(targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
    """Copy into each target what its source holds, in few launches."""
    torch._foreach_copy_(targets, sources)  # type: ignore[arg-type]  # any sequence will do


class _Wrapper(torch.Tensor):
    """Answers every operator with whether it was `add`."""

    __torch_function__ = no_torch_function  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch types its own as a C function, not as a class method
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return torch.tensor(func is torch.ops.aten.add.Tensor)


def _check_wrapper() -> None:
    wrapper = wrapper_tensor(_Wrapper, (2, 3), (3, 1), 1, torch.float16)
    layout = (wrapper.shape, wrapper.stride(), wrapper.storage_offset())
    require(layout == ((2, 3), (3, 1), 1), "the layout is as asked")
    require(wrapper.device == _CPU and not wrapper._is_view(), "the tensor is the CPU's, and no view")


def _check_torch_function() -> None:
    wrapper = wrapper_tensor(_Wrapper, (2,), (1,), 0, torch.float32)
    require(bool(wrapper + 1), "operators arrive at __torch_dispatch__ without a detour")


def _check_views() -> None:
    tensor = torch.tensor([1 + 2j])
    require(conjugate_view(tensor).is_conj() and conjugate_view(tensor).item() == 1 - 2j, "the view conjugates")
    require(negative_view(tensor).is_neg() and negative_view(tensor).item() == -1 - 2j, "the view negates")


def _check_copies() -> None:
    targets = [torch.zeros(2), torch.zeros(3)]
    copy_all(targets, [torch.ones(2), torch.ones(3)])
    require(all(bool(target.all()) for target in targets), "each target is written")


def _check_storage() -> None:
    tensor = torch.ones(4)
    key = tensor.untyped_storage()._cdata
    require(tensor[1:].untyped_storage()._cdata == key, "views have the storage, and so the key, of their base")
    require(torch.ones(4).untyped_storage()._cdata != key, "other tensors have another")


def _check_version() -> None:
    tensor = torch.ones(2)
    before = tensor._version
    tensor.add_(1)
    require(tensor._version == before + 1, "a write in place is counted")


PROBES = (
    Probe("torch.Tensor._make_wrapper_subclass", "makes tensors whose elements live in a daemon", _check_wrapper),
    Probe("torch._C._disabled_torch_function_impl", "has operators on them arrive undisguised", _check_torch_function),
    Probe("torch._conj", "brings tensors back from host memory", _check_views),
    Probe("torch._neg_view", "brings tensors back from host memory", _check_views),
    Probe("torch._foreach_copy_", "fills the inputs of a recorded CUDA graph", _check_copies),
    Probe("torch.UntypedStorage._cdata", "tells in a worker which tensors share memory", _check_storage),
    Probe("torch.Tensor._version", "notices weights that were written", _check_version),
)
