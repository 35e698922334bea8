"""timm: a small ViT with Mixup, label smoothing, layer-wise rates, its scheduler and its EMA; a ConvNeXt's features."""

from __future__ import annotations

from typing import Any

import numpy as np
import timm
import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3

STEPS = 4


def main(backend: str) -> dict[str, Any]:
    torch.manual_seed(0)
    np.random.seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=32,
        patch_size=8,
        embed_dim=32,
        depth=2,
        num_heads=4,
        num_classes=5,
        drop_path_rate=0.1,
    )
    compiled = torch.compile(model, backend=backend)
    mixup = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=5)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.75)
    scheduler = CosineLRScheduler(optimizer, t_initial=STEPS, warmup_t=1, warmup_lr_init=1e-5)
    ema = ModelEmaV3(model, decay=0.9)
    criterion, losses = SoftTargetCrossEntropy(), []
    for step in range(STEPS):
        images, targets = mixup(torch.randn(4, 3, 32, 32), torch.randint(5, (4,)))
        loss = criterion(compiled(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.update(model, step=step)
        scheduler.step(step + 1)
        losses.append(loss.item())
    model.eval()
    with torch.inference_mode():
        top = compiled(torch.randn(2, 3, 32, 32)).softmax(-1).topk(3)
    backbone = timm.create_model(
        "convnext_atto", features_only=True, out_indices=(0, 2), depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)
    )
    pyramid = torch.compile(backbone.eval(), backend=backend)
    with torch.no_grad():
        features = pyramid(torch.randn(1, 3, 32, 32))
    return {
        "losses": losses,
        "top": (top.values, top.indices),
        "features": features,
        "weights": model.state_dict(),
        "ema": ema.module.state_dict(),
    }
