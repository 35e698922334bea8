"""Probes of what stands beside, in a module of their own: two of the others are loaded with torch and import little."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch._C import (
    DispatchKey,
    DispatchKeySet,
    _dispatch_key_parse,
    _ExcludeDispatchKeyGuard,
    _swap_tensor_impl,
)
from torch._dynamo.utils import get_current_stream
from torch._subclasses import fake_tensor
from torch.nn import Module

from dynamo_genie.torch_internals.device.generators import hook_methods, offset_of_device
from dynamo_genie.torch_internals.device.guard import META, NUMBER, guard_methods, guard_of
from dynamo_genie.torch_internals.device.kernels import (
    cast_on_the_cpu,
    rebuild_parameter,
    rebuild_tensor,
)
from dynamo_genie.torch_internals.device.method_tables import library, method
from dynamo_genie.torch_internals.device.presence import KEY, name_of_device, unseen
from dynamo_genie.torch_internals.probe import Probe, require, takes


def _check_swap() -> None:
    asked: list[object] = []

    class _Asked(torch.nn.Linear):
        def _apply(self, fn: Any, recurse: bool = True) -> Any:
            asked.append(Module._apply.__code__.co_names)
            return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    _Asked(1, 1).double()
    require("get_swap_module_params_on_conversion" in asked[0], "a module that moves asks whether to swap")  # type: ignore[operator]


def _check_swap_impl() -> None:
    first, second = torch.zeros(1), torch.ones(1)
    view = first[:1]
    _swap_tensor_impl(first, second)
    require((first.item(), second.item()) == (1, 0), "tensors change places")
    second.fill_(2)
    require(view.item() == 2, "a view stays with its memory")


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


def _check_dropped_casts() -> None:
    names = torch.autocast.__exit__.__code__.co_names
    require("clear_autocast_cache" in names, "a context that ends asks for it by its name in torch")


def _check_without_autocast() -> None:
    keys = DispatchKeySet(_dispatch_key_parse("AutocastCPU"))
    with torch.autocast("cpu", dtype=torch.bfloat16), _ExcludeDispatchKeyGuard(keys):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    require(product.dtype == torch.float32, "a context can keep autocast from operators")


def _check_meta() -> None:
    keys = DispatchKeySet(DispatchKey.Meta)
    viewed = torch.ops.aten.as_strided.default.redispatch(keys, torch.empty(0, device="meta"), (2, 3), (3, 1), 0)
    require(viewed.shape == (2, 3), "a view of what has no memory can be of any size")


def _check_guards() -> None:
    names = guard_methods()
    guard = guard_of(META)
    require(NUMBER(method(guard, names, "deviceCount"))(guard) == 1, "the guard of the meta device is found")


def _check_threads() -> None:
    require(bool(library("torch_cpu")["_ZN5torch8autograd6Engine20start_device_threadsEv"]), "autograd makes threads")


def _check_generators() -> None:
    require("getNewGenerator" in hook_methods() and offset_of_device() > 0, "a generator says where its device is")


def _check_unseen() -> None:
    @unseen
    class Hidden:
        def doubled(self, value: torch.Tensor) -> torch.Tensor:
            return value + value

    frames: list[object] = []
    hidden = Hidden()

    def count(gm: Any, inputs: Any) -> Any:
        frames.append(gm)
        return gm

    torch.compile(hidden.doubled, backend=count)(torch.ones(2))
    require(not frames, "Dynamo leaves a frame alone that it is told to")


_probe = partial(Probe, seen=("2.13.0", "2.14.1"))

PROBES = (
    _probe("c10::impl::device_guard_impl_registry", "lets errors pass through backward passes", _check_guards),
    _probe("torch::autograd::Engine::start_device_threads", "gives each device a thread of autograd's", _check_threads),
    _probe("at::detail::getPrivateUse1Hooks", "makes generators of the device", _check_generators),
    _probe("torch._C", "has functions that can be replaced", lambda: vars(torch._C)["_get_accelerator"]),
    *(
        _probe(f"torch._C._dynamo.eval_frame.{name}", "hides the door from Dynamo", _check_unseen)
        for name in ("_FrameAction", "_FrameExecStrategy", "set_code_exec_strategy")
    ),
    _probe(
        "torch._C._accelerator_getAccelerator",
        "hides the device from who does not use it",
        torch._C._accelerator_getAccelerator,
    ),
    _probe("torch._C._get_accelerator", "hides the device from who does not use it", torch._C._get_accelerator),
    _probe(
        "torch._C._DisableTorchDispatch",
        "starts autograd unseen by modes",
        lambda: require(bool(torch._C._DisableTorchDispatch()), "it is a guard"),
    ),
    _probe("torch._C._acc", f"makes a device of {KEY}", _check_acc),
    _probe("torch._C._autograd.DeviceType", f"makes a device of {KEY}", _check_device_type),
    _probe(
        "torch._C._get_privateuse1_backend_name",
        "names the device",
        lambda: require(isinstance(name_of_device(), str), "it has a name"),
    ),
    _probe("torch._register_device_module", "gives the device its module", lambda: torch._register_device_module),
    _probe("torch._C.DispatchKey", "makes tensors of the device without memory", _check_meta),
    _probe("torch._C.DispatchKeySet", "makes tensors of the device without memory", _check_meta),
    _probe("torch.clear_autocast_cache", "casts a weight once while autocast lasts", _check_dropped_casts),
    _probe("torch._C._dispatch_key_parse", "casts what runs on the device", _check_without_autocast),
    _probe("torch._C._ExcludeDispatchKeyGuard", "casts what runs on the device", _check_without_autocast),
    _probe(
        "torch._C._dispatch_get_registrations_for_dispatch_key",
        "casts on the device what is cast on the CPU",
        lambda: require(torch.ops.aten.mm.default in set(cast_on_the_cpu()), "it lists the operators"),
    ),
    _probe(
        "torch._utils._rebuild_parameter",
        "saves what is on the device",
        lambda: takes(rebuild_parameter, "data", "requires_grad", "backward_hooks"),
    ),
    _probe(
        "torch._utils._rebuild_tensor_v2",
        "saves what is on the device",
        lambda: takes(rebuild_tensor, "storage", "storage_offset", "size", "stride", "requires_grad"),
    ),
    _probe(
        "torch._dynamo.utils.get_current_stream",
        "keeps Dynamo from tracing what it calls itself",
        lambda: takes(get_current_stream, "device"),
    ),
    _probe(
        "torch._subclasses.fake_tensor",
        "captures graphs of the device without using it",
        lambda: takes(fake_tensor._is_privateuse1_backend_available),
    ),
    _probe("torch._C._swap_tensor_impl", "moves parameters that others hold", _check_swap_impl),
    _probe("torch.optim.optimizer._foreach_supported_types", "lets optimizers go in groups", _check_foreach),
    _probe("torch.__future__.get_swap_module_params_on_conversion", "keeps tied weights tied", _check_swap),
    _probe(
        "torch.accelerator.synchronize", "waits for the device", lambda: takes(torch.accelerator.synchronize, "device")
    ),
)
