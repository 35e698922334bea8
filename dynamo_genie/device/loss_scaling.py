"""What `torch.amp.GradScaler` does with gradients and with its scale, in operators that daemons run.

PyTorch has kernels of its own for that, which no daemon has; what they compute stands in
`aten/src/ATen/native/cpu/AmpGradScalerKernels.cpp`.
"""

from __future__ import annotations

import torch
from torch import Tensor

aten = torch.ops.aten


def unscale(gradients: list[Tensor], found_inf: Tensor, inv_scale: Tensor) -> None:
    """Multiply gradients in place; set `found_inf` to 1 where one of them is not finite."""
    if not gradients:
        return
    largest = aten._foreach_norm.Scalar(gradients, float("inf"))
    finite = torch.stack([norm.float() for norm in largest]).isfinite().all()
    found_inf.copy_(torch.where(finite, found_inf, torch.ones_like(found_inf)))
    aten._foreach_mul_.Tensor(gradients, inv_scale)


def update_scale(
    scale: Tensor, growth_tracker: Tensor, found_inf: Tensor, growth: float, backoff: float, interval: int
) -> Tensor:
    """Lower the scale after a step that was not finite, and raise it after so many that were."""
    failed = found_inf != 0
    steps = growth_tracker + 1
    grown = (scale.double() * growth).to(scale.dtype)
    lowered = (scale.double() * backoff).to(scale.dtype)
    due = steps == interval
    scale.copy_(torch.where(failed, lowered, torch.where(due & grown.isfinite(), grown, scale)))
    growth_tracker.copy_(torch.where(failed | due, torch.zeros_like(steps), steps))
    return scale
