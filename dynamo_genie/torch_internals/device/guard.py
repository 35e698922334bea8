"""What stands in for a device's streams, mended: PyTorch's own stand-in ends the process, and knows of one device.

`torch._C._acc` lets Python stand in for the guard of a device (c10's `DeviceGuardImplInterface`), of which it asks
Python for the type alone, whatever method is called. Autograd changes streams around every step of a backward pass,
and back when an error is on its way: then Python may not be asked, and C++ gives up (`std::terminate`, seen in torch
2.13). The stand-in also says that there is one device, and autograd has no thread for any other.

So the object gets another table of methods: its own, but that changing streams is the method of the guard that does
nothing (`NoOpDeviceGuardImpl`, which the meta device has), and that the number of devices is asked of a function here.
Nothing is changed where anything is not as it should be; `mend` says so.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch

from dynamo_genie.torch_internals.device.method_tables import library, method, methods, replace

META, PRIVATE_USE_1 = 14, 20
"""c10's `DeviceType`."""

_REGISTRY = "_ZN3c104impl26device_guard_impl_registryE"
_MAX_TYPES = 22  # of c10's `COMPILE_TIME_MAX_DEVICE_TYPES`, those that there are
_ENGINE = "18get_default_engine", "20start_device_threads"
"""Functions of autograd's engine, as C++ mangles their names."""

NUMBER = ctypes.CFUNCTYPE(ctypes.c_int8, ctypes.c_void_p)
"""A method without arguments that returns a small number: the type of a device, or how many there are."""


def mend(count: Callable[[], int]) -> bool:
    """Let errors pass through backward passes on the device, and autograd know how many devices there are.

    Call it when the stand-in is registered. `count` is asked at every backward pass; it must not raise.

    Returns whether it could be done.
    """
    try:
        names = guard_methods()
        ours, idle = guard_of(PRIVATE_USE_1), guard_of(META)
    except (OSError, AttributeError, ValueError, LookupError):
        return False
    counted = NUMBER(lambda this: count())
    replace(ours, names, {"exchangeStream": method(idle, names, "exchangeStream"), "deviceCount": counted})
    return True


def start_threads(appear: Callable[[], None]) -> None:
    """Let autograd have a thread for each device, once there are some; call it once.

    It makes threads once, before the first backward pass of the process, and none where there is no device then: a
    process that has none may still be forked. So that pass is made, if there was none, and after `appear`, from when on
    `mend`'s function counts devices, what it does is done again. Done yet again it would wait for ever.

    Raises:
        OSError, AttributeError: This torch has no such function.
    """
    engine = library("torch_cpu")
    default, start = (engine[f"_ZN5torch8autograd6Engine{name}Ev"] for name in _ENGINE)
    default.restype = ctypes.c_void_p
    start.argtypes = (ctypes.c_void_p,)
    with torch.inference_mode(False), torch.enable_grad(), torch._C._DisableTorchDispatch():
        torch.ones((), device="cpu", requires_grad=True).backward()
    appear()
    start(default())


def guard_methods() -> list[str]:
    """Return the names of a guard's methods, in the order of its table."""
    names = methods("c10/core/impl/DeviceGuardImplInterface.h", "struct C10_API DeviceGuardImplInterface {")
    if names[:1] != ["type"] or {"exchangeStream", "deviceCount"} - set(names):
        raise LookupError("the methods are not those that they were")
    return names


def guard_of(kind: int) -> int:
    """Return the address of the guard of a type of device, which says itself that it is."""
    address = (ctypes.c_void_p * _MAX_TYPES).in_dll(library("c10"), _REGISTRY)[kind]
    if not address or NUMBER(method(address, ["type"], "type"))(address) != kind:
        raise LookupError(f"there is no guard of type {kind}")
    return address
