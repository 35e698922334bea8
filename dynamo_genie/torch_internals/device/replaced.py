"""What PyTorch cannot be told of the device otherwise: replaced, for our device alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import wraps
from types import ModuleType
from typing import Any

import torch
from torch._C import _swap_tensor_impl
from torch._dynamo.utils import get_current_stream
from torch._subclasses import fake_tensor
from torch.nn import Module

from dynamo_genie.torch_internals.opaque import opaque, unseen

_APPLY = Module._apply.__code__


def capture_without_device() -> None:
    """Keep `fake_tensor` from computing on the device while a graph is captured, and Dynamo from tracing what it calls.

    Compiled code asks for the current stream of an accelerator by a Python function (`get_current_stream`).
    """
    fake_tensor._is_privateuse1_backend_available = lambda: False
    unseen(get_current_stream)


def let_foreach_take(kind: type[torch.Tensor]) -> None:
    """Let optimizers choose their foreach form for parameters of a class; relies on the list that they look into."""
    from torch.optim import optimizer

    if kind not in optimizer._foreach_supported_types:
        optimizer._foreach_supported_types.append(kind)


def on_dropped_casts(drop: Callable[[], None]) -> None:
    """Have a function called whenever PyTorch drops the weights that autocast keeps in a lower dtype.

    Relies on `torch.autocast` calling `torch.clear_autocast_cache` when the outermost context ends.
    """
    dropped = torch.clear_autocast_cache

    @opaque
    @wraps(dropped)
    def clear_autocast_cache() -> None:
        dropped()
        drop()

    torch.clear_autocast_cache = clear_autocast_cache


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
    @opaque
    @wraps(theirs)
    def answer(*args: Any, **kwargs: Any) -> Any:
        accelerator = torch.accelerator.current_accelerator()
        return (ours if accelerator is not None and accelerator.type == name else theirs)(*args, **kwargs)

    return answer


def swap_whoever_holds_them(kind: type[torch.Tensor]) -> None:
    """Let tensors be swapped with some of a class though something else holds them: a view, a graph, a weak reference.

    `torch.utils.swap_tensors` refuses, for the others would hold what is in another place now. Where one of the two is
    on the device that is what is wanted: views and graphs go on with the memory that was left, and a backward pass of
    such a graph raises where it would reach the parameter. Relies on `torch._C._swap_tensor_impl`.
    """
    theirs = torch.utils.swap_tensors

    @opaque
    @wraps(theirs)
    def swap_tensors(t1: torch.Tensor, t2: torch.Tensor) -> None:
        if not (isinstance(t1, kind) or isinstance(t2, kind)):
            theirs(t1, t2)  # type: ignore[no-untyped-call]
            return
        for tensor in (t1, t2):
            if tensor.is_leaf and tensor.requires_grad:
                torch.autograd.graph.get_gradient_edge(tensor).node.register_prehook(_refuse_old_graph)
        t1.__class__, t2.__class__ = t2.__class__, t1.__class__
        t1.__dict__, t2.__dict__ = t2.__dict__, t1.__dict__
        _swap_tensor_impl(t1, t2)

    torch.utils.swap_tensors = swap_tensors


def _refuse_old_graph(gradients: Any) -> None:
    raise RuntimeError(
        "a backward pass reached a parameter that was moved to another device after the forward pass: move the module "
        "before the forward pass, or after the backward pass"
    )


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
