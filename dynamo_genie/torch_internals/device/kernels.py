"""Kernels of the device's dispatch keys, and tensors on it that have no memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch._C import (
    DispatchKey,
    DispatchKeySet,
    _dispatch_key_parse,
    _ExcludeDispatchKeyGuard,
)
from torch._C import _dispatch_get_registrations_for_dispatch_key as _registered
from torch._utils import _rebuild_parameter as rebuild_parameter
from torch._utils import _rebuild_tensor_v2 as rebuild_tensor

from dynamo_genie.torch_internals.device.presence import KEY
from dynamo_genie.torch_internals.operators import OpOverload

Kernels = Iterable[tuple[str, Callable[..., Any]]]

__all__ = [
    "aten_overload", "cast_on_the_cpu", "make_without_memory", "rebuild_parameter", "rebuild_tensor",
    "register_autocast", "register_kernels", "without_autocast",
]  # fmt: skip

_AUTOCAST = f"Autocast{KEY}"


def register_kernels(
    kernels: Kernels, composites: Kernels, all_others: Callable[..., Any]
) -> tuple[torch.library.Library, ...]:
    """Register kernels of aten operators for the device; they last as long as the library that is returned.

    Args:
        kernels: Those that autograd and all others end in.
        composites: Those that are made of other operators, which autograd sees.
        all_others: Takes an operator for which there is none, and its arguments.
    """
    library = torch.library.Library("aten", "IMPL")
    for operator, kernel in (*kernels, *composites):
        library.impl(operator, kernel, KEY)
    for operator, kernel in composites:
        library.impl(operator, kernel, f"Autograd{KEY}")
    for operator in set(_registered("CompositeImplicitAutograd")) & set(_registered("CPU")):  # whole, as on the CPU
        library.impl(operator, torch.library.fallthrough_kernel, f"Autograd{KEY}")
        library.impl(
            operator, partial(all_others, aten_overload(operator)), KEY
        )  # AOTAutograd asks whether there is one
    if not torch.cuda.is_available():  # pinned memory is the accelerator's, and ours has none: a copy will do
        library.impl("_pin_memory", lambda tensor, device=None: tensor.clone(), "CPU")
    everything = torch.library.Library("_", "IMPL")
    everything.fallback(all_others, KEY)
    return library, everything


def register_autocast(kernels: Kernels) -> tuple[torch.library.Library, ...]:
    """Register what casts arguments where autocast is on for the device; all other operators run as they are."""
    everything, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    everything.fallback(torch.library.fallthrough_kernel, _AUTOCAST)
    for operator, kernel in kernels:
        aten.impl(operator, kernel, _AUTOCAST)
    return everything, aten


def cast_on_the_cpu() -> Iterator[OpOverload]:
    """Give the aten operators that autocast has kernels for on the CPU."""
    for full in _registered("AutocastCPU"):
        if full.startswith("aten::"):
            yield aten_overload(full)


def aten_overload(full: str) -> OpOverload:
    """Return an aten operator by its name, `add.out` or `aten::add.out`."""
    packet, _, overload = full.removeprefix("aten::").partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")  # type: ignore[no-any-return]


def without_autocast() -> AbstractContextManager[None]:
    """Return a context in which autocast leaves the device alone."""
    return _ExcludeDispatchKeyGuard(DispatchKeySet(_dispatch_key_parse(_AUTOCAST)))


def make_without_memory(shape: Any, stride: Any, offset: Any, dtype: torch.dtype) -> torch.Tensor:
    """Return a plain tensor on the device that has a layout and no memory.

    Relies on `torch._C._acc.create_empty_tensor`, and on `as_strided` being the same wherever there is no memory.
    """
    from torch._C import _acc

    flat = _acc.create_empty_tensor((0,), dtype)
    keys = DispatchKeySet(DispatchKey.Meta)
    return torch.ops.aten.as_strided.default.redispatch(keys, flat, shape, stride, offset)  # type: ignore[no-any-return]
