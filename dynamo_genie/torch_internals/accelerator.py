"""What of PyTorch asks for "the accelerator" and cannot be told of ours from Python: replaced, for our device alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import wraps
from types import ModuleType
from typing import Any

import torch
from torch.nn import Module

from dynamo_genie.torch_internals.opaque import unseen
from dynamo_genie.torch_internals.probe import Probe, require, takes

_APPLY = Module._apply.__code__


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


PROBES = (
    Probe("torch.__future__.get_swap_module_params_on_conversion", "keeps tied weights tied", _check_swap),
    Probe(
        "torch.accelerator.synchronize", "waits for the device", lambda: takes(torch.accelerator.synchronize, "device")
    ),
)
