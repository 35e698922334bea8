"""Remote tensors to plain ones, in a way that autograd follows."""

from __future__ import annotations

from typing import Any

import torch

from dynamo_genie.tensor.in_daemon import InDaemon
from dynamo_genie.tensor.memory_here import read_together


class ToLocal(torch.autograd.Function):
    """Returns plain tensors with the values of remote ones, in one round trip a daemon; gradients pass through."""

    @staticmethod
    def forward(ctx: Any, *tensors: InDaemon) -> tuple[torch.Tensor, ...]:
        """Read the values."""
        return tuple(read_together(tensors))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Pass the gradients on."""
        return gradients
