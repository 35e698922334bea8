"""A run that is saved in the middle and goes on in fresh objects: model, optimizer, schedule, sampler, generators."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class Run:
    """Everything that a checkpoint must bring back."""

    def __init__(self, backend: str) -> None:
        self.model = nn.Sequential(nn.Linear(6, 12), nn.Dropout(0.2), nn.GELU(), nn.Linear(12, 3))
        self.compiled = torch.compile(self.model, backend=backend)
        self.optimizer = torch.optim.NAdam(self.model.parameters(), lr=5e-3)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(self.optimizer, T_0=3)
        self.best = torch.tensor(float("inf"))
        self.epoch = 0

    def train(self, loader: DataLoader[Any], epochs: int) -> list[float]:
        losses = []
        for _ in range(epochs):
            self.epoch += 1
            total = torch.tensor(0.0)
            for x, y in loader:
                loss = F.cross_entropy(self.compiled(x), y, label_smoothing=0.1)
                self.optimizer.zero_grad(set_to_none=False)
                loss.backward()
                self.optimizer.step()
                total += loss.detach()
            self.scheduler.step()
            self.best = torch.minimum(self.best, total)
            losses.append(float(total))
        return losses

    def save(self, path: Path) -> None:
        torch.save(
            {
                "model": self.compiled.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "best": self.best,
                "epoch": self.epoch,
                "rng": (torch.get_rng_state(), random.getstate()),
            },
            path,
        )

    def load(self, path: Path) -> None:
        saved = torch.load(path, weights_only=False)
        self.compiled.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.load_state_dict(saved["scheduler"])
        self.best, self.epoch = saved["best"], saved["epoch"]
        torch.set_rng_state(saved["rng"][0])
        random.setstate(saved["rng"][1])


def main(backend: str) -> dict[str, Any]:
    torch.manual_seed(8)
    random.seed(8)
    data = TensorDataset(torch.randn(12, 6), torch.randint(3, (12,)))
    loader = DataLoader(data, batch_size=4, shuffle=True)
    straight = Run(backend)
    before = straight.train(loader, 2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pt"
        straight.save(path)
        after = straight.train(loader, 2)
        torch.manual_seed(99)
        resumed = Run(backend)
        resumed.load(path)
        again = resumed.train(loader, 2)
    assert again == after, "the resumed run is not the run that went straight on"
    return {
        "losses": before + after,
        "best": resumed.best,
        "lr": resumed.scheduler.get_last_lr(),
        "weights": resumed.model.state_dict(),
        "optimizer": list(resumed.optimizer.state_dict()["state"].values()),
    }
