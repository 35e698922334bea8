"""A convolutional VAE: sampling inside the model, two losses, a schedule, images decoded from noise at the end."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STEPS = 6


class VAE(nn.Module):
    def __init__(self, latent: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1),
            nn.GroupNorm(2, 8),
            nn.SiLU(),
            nn.Conv2d(8, 8, 3, 2, 1),
            nn.Flatten(),
        )
        self.mean, self.log_var = nn.Linear(128, latent), nn.Linear(128, latent)
        self.project = nn.Linear(latent, 128)
        self.decoder = nn.Sequential(
            nn.Unflatten(1, (8, 4, 4)), nn.ConvTranspose2d(8, 8, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(8, 1, 4, 2, 1)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.encoder(x)
        mean, log_var = self.mean(hidden), self.log_var(hidden)
        z = mean + torch.randn_like(mean) * (0.5 * log_var).exp()
        return self.decode(z), mean, log_var

    def decode(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.decoder(self.project(z)))


def loss_of(image: Tensor, decoded: Tensor, mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    reconstruction = F.binary_cross_entropy(decoded, image, reduction="sum")
    divergence = -0.5 * torch.sum(1 + log_var - mean.pow(2) - log_var.exp())
    return reconstruction, divergence


def main(backend: str) -> dict[str, Any]:
    torch.manual_seed(11)
    images = torch.rand(24, 1, 16, 16).round()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images), batch_size=8, shuffle=True)
    model = VAE()
    compiled = torch.compile(model, backend=backend)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=STEPS)
    history, total = [], torch.zeros(())
    for _ in range(STEPS // len(loader)):
        for (image,) in loader:
            reconstruction, divergence = loss_of(image, *compiled(image))
            loss = reconstruction + 0.5 * divergence
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            total += loss.detach()
            history.append((loss.item(), divergence.item(), scheduler.get_last_lr()[0]))
    model.eval()
    decode = torch.compile(model.decode, backend=backend)
    with torch.inference_mode():
        grid = decode(torch.randn(4, 4)).view(2, 2, 16, 16).permute(0, 2, 1, 3).reshape(32, 32)
        grid.clamp_(0.1, 0.9)
    return {"history": history, "total": total, "grid": grid.numpy().tolist(), "weights": model.state_dict()}
