"""That there is a device: its name, its module, and what C++ code asks of it. Nothing here computes.

Autograd asks the guard of each device at every backward pass, also of a program that knows nothing of it, so what
stands here must cost nothing and change nothing until the device is used.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch._C import _get_privateuse1_backend_name
from torch._C._dynamo.eval_frame import _FrameAction, _FrameExecStrategy, set_code_exec_strategy

UNNAMED = "privateuseone"
KEY = "PrivateUse1"

_DEVICE_FILES = (("cuda", ("/dev/nvidiactl", "/dev/dxg")), ("hip", ("/dev/kfd", "/dev/dxg")), ("xpu", ("/dev/dri",)))
"""What the system shows where there is a device of a kind that torch may be built for, as `torch.version` names it."""


def unseen(kind: type) -> type:
    """Have Dynamo leave the methods of a class alone; as `opaque.unseen`, without loading Dynamo."""
    for member in vars(kind).values():
        if isinstance(member, FunctionType):
            set_code_exec_strategy(member.__code__, _FrameExecStrategy(_FrameAction.SKIP, _FrameAction.DEFAULT))
    return kind


def has_an_accelerator() -> bool:
    """Whether torch has an accelerator of its own here. Looks at files alone: asking a driver takes long."""
    if torch.backends.mps.is_built():
        return True
    return any(
        getattr(torch.version, kind, None) and any(map(os.path.exists, files))  # pathlib is not loaded yet
        for kind, files in _DEVICE_FILES
    )


def name_of_device() -> str:
    """Return what the device is called in this process; `UNNAMED` where nobody has named it."""
    return str(_get_privateuse1_backend_name())


def enter(name: str, module: ModuleType, is_available: Callable[[], bool], is_used: Callable[[int], bool]) -> None:
    """Let `torch.device(name)` mean the device, give it its module (`torch.<name>`), and C++ code its stand-ins.

    Relies on `torch._C._acc`, through which Python stands in for what a device registers from C++.

    Args:
        name: The device.
        module: Its module.
        is_available: Whether it can be used.
        is_used: Whether the device of an index is; of others, autograd keeps no stream.

    Raises:
        RuntimeError: The process has named its device already; there can be one.
    """
    from torch._C import _acc
    from torch._C._autograd import DeviceType

    class _Hooks(_acc.PrivateUse1Hooks):
        def is_available(self) -> bool:
            return is_available()

        def has_primary_context(self, device_id: int) -> bool:
            return is_used(device_id)

        def is_built(self) -> bool:
            return True

    class _Guard(_acc.DeviceGuard):
        def type_(self) -> Any:
            return DeviceType.PrivateUse1

    if name_of_device() != name:
        torch.utils.rename_privateuse1_backend(name)
    torch.utils.generate_methods_for_privateuse1_backend()
    torch._register_device_module(name, module)
    _acc.register_python_privateuseone_hook(_Hooks())
    _acc.register_python_privateuseone_device_guard(_Guard())


def hide_accelerator_until(is_available: Callable[[], bool]) -> None:
    """Let PyTorch's Python code see no accelerator until the device is available.

    C++ code counts a device that has a name as the accelerator, and so would programs that move to whatever there is.
    Replaces `torch._C._accelerator_getAccelerator` and `torch._C._get_accelerator`.
    """
    theirs, theirs_or_cpu = torch._C._accelerator_getAccelerator, torch._C._get_accelerator

    def _accelerator_getAccelerator() -> torch.device | None:  # noqa: N802  # PyTorch's name
        return theirs() if is_available() else None

    def _get_accelerator(*check: bool) -> torch.device:
        return theirs_or_cpu(*check) if is_available() else torch.device("cpu")

    torch._C._accelerator_getAccelerator = _accelerator_getAccelerator  # type: ignore[assignment]  # may be none
    torch._C._get_accelerator = _get_accelerator  # type: ignore[assignment]
