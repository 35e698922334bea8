"""Generators of random numbers that say they are on the device; they are those of the CPU, and draw what these draw.

`torch.Generator(device=...)` asks the hooks of the device for one, and PyTorch's stand-in for hooks in Python knows of
none. So the hooks get another table of methods, as the guard does (`guard`). Only where a C++ function that returns an
object is given its place as a first argument, as on x86-64.
"""

from __future__ import annotations

import ctypes
import platform

import torch

from dynamo_genie.torch_internals.device.guard import PRIVATE_USE_1
from dynamo_genie.torch_internals.device.method_tables import library, method, methods, replace

_PLACE = ctypes.c_void_p
_New = ctypes.CFUNCTYPE(_PLACE, _PLACE, ctypes.c_void_p, ctypes.c_int8)
_Says = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p)


def allow_generators() -> bool:
    """Let `torch.Generator(device=...)` make generators of the device; returns whether it could be done."""
    try:
        names, hooks = hook_methods(), _hooks()
        create, offset = _creator(), offset_of_device()
        if not _Says(method(hooks, names, "isBuilt"))(hooks):
            return False
    except (OSError, AttributeError, ValueError, LookupError):
        return False
    seed = torch.Generator().initial_seed()

    def new_generator(place: int, this: int, index: int) -> int:
        create(place, seed)
        generator = ctypes.c_void_p.from_address(place).value
        assert generator is not None
        ctypes.memmove(generator + offset, bytes((PRIVATE_USE_1, max(index, 0))), 2)
        return place

    replace(hooks, names, {"getNewGenerator": _New(new_generator)})
    return True


def hook_methods() -> list[str]:
    """Return the names of the methods of a device's hooks, in the order of their table."""
    names = methods("ATen/detail/AcceleratorHooksInterface.h", "struct TORCH_API AcceleratorHooksInterface {")
    names += methods("ATen/detail/PrivateUse1HooksInterface.h", "struct TORCH_API PrivateUse1HooksInterface ")
    if {"isBuilt", "getNewGenerator"} - set(names):
        raise LookupError("the methods are not those that they were")
    return names


def offset_of_device() -> int:
    """Return where in a generator its device stands, in bytes: asked of bytes that each say where they stand."""
    if platform.machine() not in ("x86_64", "AMD64"):
        raise LookupError("C++ returns objects in another way here")
    device = library("c10")["_ZNK3c1013GeneratorImpl6deviceEv"]
    device.argtypes, device.restype = (ctypes.c_void_p,), ctypes.c_uint16
    pattern = ctypes.create_string_buffer(bytes(range(256)), 256)
    low, high = int(device(pattern)).to_bytes(2, "little")
    if high != low + 1:
        raise LookupError("a generator does not say where its device is")
    return low


def _hooks() -> int:
    hooks = library("torch_cpu")["_ZN2at6detail19getPrivateUse1HooksEv"]
    hooks.restype = ctypes.c_void_p
    return int(hooks())


def _creator() -> ctypes._NamedFuncPointer:
    create = library("torch_cpu")["_ZN2at6detail18createCPUGeneratorEm"]
    create.argtypes, create.restype = (_PLACE, ctypes.c_uint64), _PLACE
    return create
