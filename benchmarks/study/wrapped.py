"""A tensor subclass that does nothing: every operator passes its `__torch_dispatch__`, and runs on what it wraps.

What eager code costs on it is the floor of every device whose operators are Python: entering Python, taking arguments
apart, and making the results' tensors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dynamo_genie.torch_internals.guarded_memory import no_torch_function, wrapper_tensor
from dynamo_genie.torch_internals.operators import TorchDispatchMode
from dynamo_genie.torch_internals.pytree import tree_map_only


class Wrapped(torch.Tensor):
    """A tensor with another one inside, which has the elements."""

    __torch_function__ = no_torch_function  # type: ignore[assignment]
    plain: torch.Tensor

    @staticmethod
    def __new__(cls, plain: torch.Tensor) -> Wrapped:
        """Wrap a tensor."""
        wrapper = wrapper_tensor(cls, plain.shape, plain.stride(), plain.storage_offset(), plain.dtype)
        wrapper.plain = plain
        return wrapper

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch types its own as a C function, not as a class method
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operator on what its arguments wrap."""
        args, kwargs = tree_map_only(Wrapped, lambda wrapper: wrapper.plain, (args, kwargs or {}))
        return tree_map_only(torch.Tensor, Wrapped, func(*args, **kwargs))


class OperatorCount(TorchDispatchMode):
    """Counts the operators that code runs within it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one operator, and run it."""
        self.count += 1
        return func(*args, **(kwargs or {}))


def wrap_parameters(model: nn.Module) -> None:
    """Give a model parameters that are wrapped; those that are one stay one."""
    wrapped: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter not in wrapped:
                wrapped[parameter] = nn.Parameter(Wrapped(parameter.detach()))
            module.register_parameter(name, wrapped[parameter])
