"""A device of our own, from Python: PyTorch's dispatch key for devices that it does not know (`PrivateUse1`)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import wraps
from types import ModuleType
from typing import Any

import torch
from torch._C import (
    DispatchKey,
    DispatchKeySet,
    _dispatch_key_parse,
    _ExcludeDispatchKeyGuard,
    _get_privateuse1_backend_name,
)
from torch._C import _dispatch_get_registrations_for_dispatch_key as _registered
from torch._subclasses import fake_tensor
from torch._utils import _rebuild_device_tensor_from_cpu_tensor as rebuild_on_device
from torch.nn import Module

from dynamo_genie.torch_internals.opaque import unseen
from dynamo_genie.torch_internals.operators import OpOverload
from dynamo_genie.torch_internals.probe import Probe, require, takes

Kernels = Iterable[tuple[str, Callable[..., Any]]]

__all__ = [
    "KEY", "PROBES", "answer_for_accelerator", "cast_on_the_cpu", "let_foreach_take", "make_without_memory",
    "rebuild_on_device", "register", "register_autocast", "register_kernels", "rename", "swap_parameters_of",
    "without_autocast",
]  # fmt: skip

KEY = "PrivateUse1"
_AUTOCAST = f"Autocast{KEY}"
_APPLY = Module._apply.__code__


def rename(name: str) -> None:
    """Let `torch.device(name)` mean the device; the first name stays. Relies on nothing but public functions."""
    if _get_privateuse1_backend_name() != name:
        torch.utils.rename_privateuse1_backend(name)


def register(name: str, module: ModuleType, is_available: Callable[[], bool]) -> None:
    """Give the device its module (`torch.<name>`), and tell C++ code that there is such a device.

    Relies on `torch._C._acc`, through which Python stands in for what a device registers from C++.
    """

    from torch._C import _acc
    from torch._C._autograd import DeviceType

    class _Hooks(_acc.PrivateUse1Hooks):
        def is_available(self) -> bool:
            return is_available()

        def has_primary_context(self, device_id: int) -> bool:
            return True

        def is_built(self) -> bool:
            return True

    class _Guard(_acc.DeviceGuard):
        def type_(self) -> Any:
            return DeviceType.PrivateUse1

    torch.utils.generate_methods_for_privateuse1_backend()
    torch._register_device_module(name, module)
    _acc.register_python_privateuseone_hook(_Hooks())
    _acc.register_python_privateuseone_device_guard(_Guard())
    fake_tensor._is_privateuse1_backend_available = lambda: False  # nothing is computed there while a graph is captured


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
    for operator in set(_registered("CompositeImplicitAutograd")) & set(_registered("CPU")):
        library.impl(operator, torch.library.fallthrough_kernel, f"Autograd{KEY}")  # whole, as on the CPU
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
        space, _, name = full.partition("::")
        if space == "aten":
            packet, _, overload = name.partition(".")
            yield getattr(getattr(torch.ops.aten, packet), overload or "default")


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


def let_foreach_take(kind: type[torch.Tensor]) -> None:
    """Let optimizers choose their foreach form for parameters of a class; relies on the list that they look into."""
    from torch.optim import optimizer

    if kind not in optimizer._foreach_supported_types:
        optimizer._foreach_supported_types.append(kind)


# --- what cannot be told of ours otherwise: replaced, for our device alone ---


def answer_for_accelerator(name: str, module: ModuleType, functions: Mapping[str, str]) -> None:
    """Let functions of `torch.accelerator` call those of the device's module while the device is the accelerator.

    Args:
        name: The device.
        module: Its module.
        functions: Names in `torch.accelerator`, with those in the module.
    """
    for theirs, ours in functions.items():
        if hasattr(torch.accelerator, theirs):
            setattr(
                torch.accelerator, theirs, _answering(name, getattr(torch.accelerator, theirs), getattr(module, ours))
            )


def _answering(name: str, theirs: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(theirs)
    def answer(*args: Any, **kwargs: Any) -> Any:
        accelerator = torch.accelerator.current_accelerator()
        return (ours if accelerator is not None and accelerator.type == name else theirs)(*args, **kwargs)

    return answer


def swap_parameters_of(kind: type[torch.Tensor]) -> None:
    """Let modules whose parameters are of a class keep the objects when these move, so that tied weights stay tied.

    A module that moves its parameters to a class of another kind makes new objects, unless it is told to swap what is
    in them; it asks `torch.__future__.get_swap_module_params_on_conversion` for that.
    """
    asked = torch.__future__.get_swap_module_params_on_conversion

    @unseen
    def get_swap_module_params_on_conversion() -> bool:
        frame = sys._getframe(1)
        if asked() or frame.f_code is not _APPLY:
            return asked()
        return any(isinstance(parameter, kind) for parameter in frame.f_locals["self"]._parameters.values())

    torch.__future__.get_swap_module_params_on_conversion = get_swap_module_params_on_conversion


def _check_swap() -> None:
    asked: list[object] = []

    class _Asked(torch.nn.Linear):
        def _apply(self, fn: Any, recurse: bool = True) -> Any:
            asked.append(Module._apply.__code__.co_names)
            return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    _Asked(1, 1).double()
    require("get_swap_module_params_on_conversion" in asked[0], "a module that moves asks whether to swap")  # type: ignore[operator]


def _check_acc() -> None:
    from torch._C import _acc

    require(hasattr(_acc, "PrivateUse1Hooks"), "a device may be registered from Python")
    require(hasattr(_acc, "register_python_privateuseone_device_guard"), "so may its guard")


def _check_device_type() -> None:
    from torch._C._autograd import DeviceType

    require(hasattr(DeviceType, KEY), "there is a type for devices that PyTorch does not know")


def _check_foreach() -> None:
    from torch.optim import optimizer

    require(torch.Tensor in optimizer._foreach_supported_types, "optimizers list the classes that foreach takes")


def _check_without_autocast() -> None:
    keys = DispatchKeySet(_dispatch_key_parse("AutocastCPU"))
    with torch.autocast("cpu", dtype=torch.bfloat16), _ExcludeDispatchKeyGuard(keys):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    require(product.dtype == torch.float32, "a context can keep autocast from operators")


def _check_meta() -> None:
    keys = DispatchKeySet(DispatchKey.Meta)
    viewed = torch.ops.aten.as_strided.default.redispatch(keys, torch.empty(0, device="meta"), (2, 3), (3, 1), 0)
    require(viewed.shape == (2, 3), "a view of what has no memory can be of any size")


PROBES = (
    Probe("torch._C._acc", f"makes a device of {KEY}", _check_acc),
    Probe("torch._C._autograd.DeviceType", f"makes a device of {KEY}", _check_device_type),
    Probe("torch._C._get_privateuse1_backend_name", "names the device", _get_privateuse1_backend_name),
    Probe("torch._register_device_module", "gives the device its module", lambda: torch._register_device_module),
    Probe("torch._C.DispatchKey", "makes tensors of the device without memory", _check_meta),
    Probe("torch._C.DispatchKeySet", "makes tensors of the device without memory", _check_meta),
    Probe("torch._C._dispatch_key_parse", "casts what runs on the device", _check_without_autocast),
    Probe("torch._C._ExcludeDispatchKeyGuard", "casts what runs on the device", _check_without_autocast),
    Probe(
        "torch._C._dispatch_get_registrations_for_dispatch_key",
        "casts on the device what is cast on the CPU",
        lambda: require(torch.ops.aten.mm.default in set(cast_on_the_cpu()), "it lists the operators"),
    ),
    Probe(
        "torch._utils._rebuild_device_tensor_from_cpu_tensor",
        "loads what was saved on the device",
        lambda: takes(rebuild_on_device, "data", "dtype", "device", "requires_grad"),
    ),
    Probe(
        "torch._subclasses.fake_tensor",
        "captures graphs of the device without using it",
        lambda: takes(fake_tensor._is_privateuse1_backend_available),
    ),
    Probe("torch.optim.optimizer._foreach_supported_types", "lets optimizers go in groups", _check_foreach),
    Probe("torch.__future__.get_swap_module_params_on_conversion", "keeps tied weights tied", _check_swap),
    Probe(
        "torch.accelerator.synchronize", "waits for the device", lambda: takes(torch.accelerator.synchronize, "device")
    ),
)
