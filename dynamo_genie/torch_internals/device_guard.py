"""What stands in for a device's streams, mended: PyTorch's own stand-in ends the process, and knows of one device.

`torch._C._acc` lets Python stand in for the guard of a device (c10's `DeviceGuardImplInterface`), of which it asks
Python for the type alone, whatever method is called. Autograd changes streams around every step of a backward pass,
and back when an error is on its way: then Python may not be asked, and C++ gives up (`std::terminate`, seen in torch
2.13). The stand-in also says that there is one device, and autograd has no thread for any other.

So the object gets another table of methods: its own, but that changing streams is the method of the guard that does
nothing (`NoOpDeviceGuardImpl`, which the meta device has), and that the number of devices is asked of a function here.
Where methods stand in the table is read from the header that comes with PyTorch. Nothing is changed where anything is
not as it should be; `mend` says so.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

import torch

from dynamo_genie.torch_internals.probe import Probe, require

_REGISTRY = "_ZN3c104impl26device_guard_impl_registryE"
_MAX_TYPES = 22  # of c10's `COMPILE_TIME_MAX_DEVICE_TYPES`, those that there are
_META, _PRIVATE_USE_1 = 14, 20  # c10's `DeviceType`
_BEFORE = 2
"""Words before the methods of a table: where the object begins, and what its class is."""

_Number = ctypes.CFUNCTYPE(ctypes.c_int8, ctypes.c_void_p)
"""A method without arguments that returns a small number: the type of a device, or how many there are."""


def mend(count: Callable[[], int]) -> bool:
    """Let errors pass through backward passes on the device, and autograd know how many devices there are.

    Call it when the stand-in is registered. `count` is asked once, before the first backward pass; it must not raise.

    Returns whether it could be done.
    """
    try:
        names = _methods()
        ours, idle = _guard(_PRIVATE_USE_1), _guard(_META)
    except (OSError, AttributeError, ValueError, LookupError):
        return False
    table = (ctypes.c_void_p * (_BEFORE + len(names)))(*_table(ours, len(names)))
    stream, number = (_BEFORE + names.index(name) for name in ("exchangeStream", "deviceCount"))
    table[stream] = _table(idle, len(names))[stream]
    counted = _Number(lambda this: count())
    table[number] = ctypes.cast(counted, ctypes.c_void_p).value
    for kept in (table, counted):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))  # C++ uses them for as long as there is a process
    ctypes.c_void_p.from_address(ours).value = ctypes.addressof(table) + _BEFORE * ctypes.sizeof(ctypes.c_void_p)
    return True


def _methods() -> list[str]:
    """Return the names of a guard's methods, in the order of its table."""
    header = Path(torch.__file__).parent / "include/c10/core/impl/DeviceGuardImplInterface.h"
    text = header.read_text(encoding="utf-8")
    body = text[text.index("struct C10_API DeviceGuardImplInterface {") :]
    body = re.sub(r"//[^\n]*|/\*.*?\*/", "", body[: body.index("\n};")], flags=re.DOTALL)
    names = re.findall(r"virtual\s+[\w:*&\s]*?(~?\w+)\s*\(", body)
    if names[:1] != ["type"] or {"exchangeStream", "deviceCount"} - set(names):
        raise LookupError("the methods are not those that they were")
    return names


def _guard(kind: int) -> int:
    """Return the address of the guard of a type of device, which says itself that it is."""
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib/libc10.so"))
    address = (ctypes.c_void_p * _MAX_TYPES).in_dll(library, _REGISTRY)[kind]
    if not address or _Number(_table(address, 1)[_BEFORE])(address) != kind:
        raise LookupError(f"there is no guard of type {kind}")
    return address


def _table(guard: int, methods: int) -> list[int]:
    """Return a guard's table: what stands before its methods, and they."""
    first = ctypes.c_void_p.from_address(guard).value
    assert first is not None
    words = (ctypes.c_size_t * (_BEFORE + methods)).from_address(first - _BEFORE * ctypes.sizeof(ctypes.c_size_t))
    return list(words)


def _check_guards() -> None:
    names = _methods()
    guard = _guard(_META)
    number = _table(guard, len(names))[_BEFORE + names.index("deviceCount")]
    require(_Number(number)(guard) == 1, "the guard of the meta device is found, and its methods")


PROBES = (Probe("c10::impl::device_guard_impl_registry", "lets errors pass through backward passes", _check_guards),)
