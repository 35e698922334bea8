"""A GAN on a ring of points: two networks, two optimizers, `detach` between them, labels that are smoothed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

BATCH, LATENT, STEPS = 16, 4, 8


def real_points(count: int) -> Tensor:
    angle = torch.rand(count) * 2 * torch.pi
    return torch.stack((angle.cos(), angle.sin()), dim=1) + 0.05 * torch.randn(count, 2)


def main(backend: str) -> dict[str, Any]:
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(LATENT, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
    discriminator = nn.Sequential(
        nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Dropout(0.3), nn.utils.parametrizations.spectral_norm(nn.Linear(16, 1))
    )
    generate = torch.compile(generator, backend=backend)
    judge = torch.compile(discriminator, backend=backend)
    criterion = nn.BCEWithLogitsLoss()
    optimizer_g = torch.optim.Adam(generator.parameters(), lr=2e-3, betas=(0.5, 0.999))
    optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=2e-3, betas=(0.5, 0.999))
    history = []
    for _ in range(STEPS):
        real, noise = real_points(BATCH), torch.randn(BATCH, LATENT)

        discriminator.zero_grad()
        loss_real = criterion(judge(real), torch.full((BATCH, 1), 0.9))
        loss_real.backward()
        fake = generate(noise)
        loss_fake = criterion(judge(fake.detach()), torch.zeros(BATCH, 1))
        loss_fake.backward()
        optimizer_d.step()

        generator.zero_grad()
        loss_g = criterion(judge(fake), torch.ones(BATCH, 1))
        loss_g.backward()
        optimizer_g.step()
        history.append((loss_real.item(), loss_fake.item(), loss_g.item()))
    generator.eval()
    with torch.no_grad():
        samples = generate(torch.randn(8, LATENT))
    return {
        "history": history,
        "samples": samples,
        "generator": generator.state_dict(),
        "discriminator": discriminator.state_dict(),
    }
