"""diffusers: a tiny UNet trained for two steps and run in a DDIM pipeline; a tiny DiT with classifier-free guidance."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMScheduler,
    DiTTransformer2DModel,
    EulerDiscreteScheduler,
    UNet2DModel,
)
from torch.nn import functional as F


def unet(backend: str) -> dict[str, Any]:
    model = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    model.forward = torch.compile(model.forward, backend=backend)
    noise_scheduler, losses = DDPMScheduler(num_train_timesteps=50), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(2):
        images, noise = torch.rand(2, 1, 8, 8), torch.randn(2, 1, 8, 8)
        timesteps = torch.randint(0, 50, (2,))
        noisy = noise_scheduler.add_noise(images, noise, timesteps)
        loss = F.mse_loss(model(noisy, timesteps).sample, noise)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    pipe = DDIMPipeline(model.eval(), DDIMScheduler(num_train_timesteps=50))
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(1)
    images = pipe(batch_size=2, num_inference_steps=4, eta=0.5, generator=generator, output_type="np").images
    return {"losses": losses, "images": images.tolist()}


@torch.no_grad()
def dit(backend: str) -> dict[str, Any]:
    model = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=2,
        out_channels=2,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=10,
        norm_num_groups=1,
    ).eval()
    denoise = torch.compile(model, backend=backend)
    scheduler = EulerDiscreteScheduler(num_train_timesteps=50)
    scheduler.set_timesteps(4)
    latents = torch.randn(2, 2, 8, 8) * scheduler.init_noise_sigma
    labels = torch.tensor([1, 2, 10, 10]).clamp(max=9)
    for step in scheduler.timesteps:
        both = scheduler.scale_model_input(torch.cat([latents] * 2), step)
        predicted = denoise(both, timestep=step.expand(4), class_labels=labels).sample
        conditional, unconditional = predicted.chunk(2)
        guided = unconditional + 3.0 * (conditional - unconditional)
        latents = scheduler.step(guided, step, latents).prev_sample
    return {
        "latents": latents,
        "image": ((latents / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).numpy().tolist(),
    }


def main(backend: str) -> dict[str, Any]:
    torch.manual_seed(41)
    return {"unet": unet(backend), "dit": dit(backend)}
