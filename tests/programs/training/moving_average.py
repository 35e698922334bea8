"""Averages of weights: an EMA by `AveragedModel`, one by hand with `lerp_`, SWA with batch-norm statistics renewed."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn

STEPS = 6


def main(backend: str) -> dict[str, Any]:
    torch.manual_seed(6)
    data = [(torch.randn(8, 5), torch.randn(8, 2)) for _ in range(3)]
    model = nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    swa = AveragedModel(model)
    shadow = copy.deepcopy(model)
    compiled, evaluate = torch.compile(model, backend=backend), torch.compile(ema, backend=backend)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    swa_scheduler = SWALR(optimizer, swa_lr=5e-3, anneal_epochs=2)
    losses, evaluations = [], []
    for step in range(STEPS):
        x, y = data[step % len(data)]
        loss = F.mse_loss(compiled(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.update_parameters(model)
        with torch.no_grad():
            for mine, theirs in zip(shadow.state_dict().values(), model.state_dict().values(), strict=True):
                if mine.is_floating_point():
                    mine.lerp_(theirs, 0.1)
                else:
                    mine.copy_(theirs)
        if step >= 3:
            swa.update_parameters(model)
            swa_scheduler.step()
        losses.append(loss.item())
        ema.eval()
        with torch.inference_mode():
            evaluations.append(F.mse_loss(evaluate(x), y).item())
        ema.train()
    update_bn([x for x, _ in data], swa)
    averaged = torch.compile(swa.eval(), backend=backend)
    with torch.no_grad():
        final = averaged(data[0][0])
    return {
        "losses": losses,
        "evaluations": evaluations,
        "final": final,
        "ema": ema.state_dict(),
        "shadow": shadow.state_dict(),
        "swa": swa.state_dict(),
    }
