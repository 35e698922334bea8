"""Trainers of others on the device and on the CPU: the same losses, checkpoints that are resumed; in a process each.

`python -m tests.integration.device.frameworks NAME`; what a program must say beside its own lines is what README says.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import dynamo_genie

D = "remote_accelerator:0"


def samples(count: int = 32) -> TensorDataset:
    drawn = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(count, 8, generator=drawn), torch.randn(count, 1, generator=drawn))


def layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 1))


def transformers_trainer(device: str) -> list[float]:
    """Four steps with evaluation, a checkpoint after two, and the last two again from there."""
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    config = GPT2Config(n_embd=32, n_head=2, n_layer=2, vocab_size=100, n_positions=32, bos_token_id=0, eos_token_id=0)
    drawn = torch.Generator().manual_seed(0)
    texts = [torch.randint(0, 100, (16,), generator=drawn) for _ in range(16)]
    data: Any = [{"input_ids": text, "labels": text} for text in texts]

    def trainer(folder: str) -> Trainer:
        torch.manual_seed(0)
        arguments = TrainingArguments(
            output_dir=folder, max_steps=4, per_device_train_batch_size=4, gradient_accumulation_steps=2,
            logging_steps=1, save_steps=2, eval_strategy="steps", eval_steps=2, report_to=[], disable_tqdm=True,
        )  # fmt: skip
        return Trainer(model=GPT2LMHeadModel(config), args=arguments, train_dataset=data, eval_dataset=data[:4])

    with tempfile.TemporaryDirectory() as folder:
        first, again = trainer(folder), trainer(folder)
        first.train()
        assert {str(parameter.device) for parameter in first.model.parameters()} == {device}
        again.train(resume_from_checkpoint=f"{folder}/checkpoint-2")
    found = [[e[k] for e in run.state.log_history for k in ("loss", "eval_loss") if k in e] for run in (first, again)]
    assert found[0] == found[1]
    return [*found[0], *(parameter.sum().item() for parameter in again.model.parameters())]


def accelerate_loop(device: str) -> list[float]:
    """Two epochs of a loop that is prepared by `Accelerator`, with its state saved and loaded between them."""
    from accelerate import Accelerator

    accelerator = Accelerator(gradient_accumulation_steps=2, mixed_precision="bf16")
    model = layers()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler: Any = torch.optim.lr_scheduler.LinearLR(optimizer)
    batches = DataLoader(samples(), batch_size=8, shuffle=True)
    model, optimizer, batches, scheduler = accelerator.prepare(model, optimizer, batches, scheduler)
    losses = []
    for _ in range(2):
        for data, wanted in batches:
            with accelerator.accumulate(model):
                loss = F.mse_loss(model(data), wanted)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step(), scheduler.step(), optimizer.zero_grad()
            losses.append(loss.item())
        with tempfile.TemporaryDirectory() as folder:
            accelerator.save_state(folder)
            accelerator.load_state(folder)
    assert {str(parameter.device) for parameter in model.parameters()} == {device}
    return losses


def lightning_trainer(device: str) -> list[float]:
    """Two epochs with validation, then a third from the checkpoint, and the model loaded from that on the CPU."""
    import lightning
    from lightning.pytorch.accelerators import CPUAccelerator
    from lightning.pytorch.strategies import SingleDeviceStrategy

    class Daemons(CPUAccelerator):  # type: ignore[misc,unused-ignore]
        def setup_device(self, device: torch.device) -> None:
            torch.remote_accelerator.set_device(device)

    class Module(lightning.LightningModule):  # type: ignore[misc,unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.losses = layers(), []

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            loss = F.mse_loss(self.layers(batch[0]), batch[1])
            self.losses.append(loss.item())
            return loss

        def validation_step(self, batch: Any, index: int) -> None:
            self.log("validation", F.mse_loss(self.layers(batch[0]), batch[1]))

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    def fit(epochs: int, checkpoint: str | None = None) -> tuple[Any, Any]:
        module = Module()
        trainer = lightning.Trainer(
            max_epochs=epochs, gradient_clip_val=0.5, accumulate_grad_batches=2, default_root_dir=folder, logger=False,
            enable_progress_bar=False, enable_model_summary=False, **where,
        )  # fmt: skip
        trainer.fit(module, *(DataLoader(samples(), batch_size=8) for _ in range(2)), ckpt_path=checkpoint)
        return module, trainer

    here = device == "cpu"
    where: Any = {"accelerator": "cpu"} if here else {"strategy": SingleDeviceStrategy(device, accelerator=Daemons())}
    with tempfile.TemporaryDirectory() as folder:
        module, trainer = fit(2)
        saved = trainer.checkpoint_callback.best_model_path
        resumed, _ = fit(3, saved)
        loaded = Module.load_from_checkpoint(saved, map_location="cpu")
    assert {str(parameter.device) for parameter in module.parameters()} <= {device, "cpu"}
    return [*module.losses, *resumed.losses, *(parameter.sum().item() for parameter in loaded.parameters())]


FRAMEWORKS: dict[str, Callable[[str], list[float]]] = {
    run.__name__: run for run in (transformers_trainer, accelerate_loop, lightning_trainer)
}


def main(name: str, device: str) -> None:
    """Train, and print what came of it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("came:", FRAMEWORKS[name](device))
    moved = dynamo_genie.stats()["total"]["eager_calls"]
    assert (moved > 0) == (device != "cpu"), moved
    dynamo_genie.shutdown()


if __name__ == "__main__":
    os.environ["ACCELERATE_TORCH_DEVICE"] = sys.argv[2]  # what README says
    main(*sys.argv[1:])
