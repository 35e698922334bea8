"""Automatic mixed precision: autocast, `GradScaler` with a step that overflows, accumulation over two batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

STEPS = 6


def main(backend: str) -> dict[str, Any]:
    torch.manual_seed(9)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 4),
    )
    compiled = torch.compile(model, backend=backend)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    losses, scales, dtypes = [], [], []
    for step in range(STEPS):
        for _ in range(2):
            images, labels = torch.randn(4, 3, 8, 8), torch.randint(4, (4,))
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = compiled(images)
                loss = F.cross_entropy(logits, labels) / 2
            if step == 3:
                loss = loss * float("inf")
            scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(loss.item())
        scales.append(scaler.get_scale())
        dtypes.append((str(logits.dtype), str(loss.dtype)))
    return {
        "losses": losses,
        "scales": scales,
        "dtypes": dtypes,
        "scaler": scaler.state_dict(),
        "weights": model.state_dict(),
    }
