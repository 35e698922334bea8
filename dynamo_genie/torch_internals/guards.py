"""Dynamo's guards on tensors: dtype, shape and strides of many at once, in C++."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch._C._dynamo.guards import TensorGuards

from dynamo_genie.torch_internals.probe import Probe, require

__all__ = ["TensorGuards", "guard_tensors"]


def guard_tensors(tensors: Sequence[torch.Tensor]) -> TensorGuards:
    """Return a guard whose `check(*tensors)` says whether each still has its dtype, shape and strides.

    Relies on sizes and strides that are given as plain numbers being checked exactly. The guard also compares what
    of autograd is switched on, so a rare False may be spurious.
    """
    sizes: list[Any] = [list(tensor.shape) for tensor in tensors]
    strides: list[Any] = [list(tensor.stride()) for tensor in tensors]
    return TensorGuards(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides)


def _check_guards() -> None:
    tensors = [torch.ones(2, 3), torch.ones(2, dtype=torch.int64)]
    guards = guard_tensors(tensors)
    require(guards.check(*tensors), "tensors that did not change pass")
    tensors[0].t_()
    require(not guards.check(*tensors), "a tensor that was transposed in place does not pass")


PROBES = (Probe("torch._C._dynamo.guards.TensorGuards", "notices weights that were replaced", _check_guards),)
