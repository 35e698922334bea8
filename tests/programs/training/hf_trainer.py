"""Hugging Face `Trainer` on a tiny Llama that was compiled before: accumulation, evaluation, a checkpoint resumed."""

from __future__ import annotations

import tempfile
from typing import Any

import accelerate  # noqa: F401 # `Trainer` asks for it only when it is made
import torch
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed


class Sentences(Dataset[dict[str, torch.Tensor]]):
    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(count)
        self.ids = torch.randint(0, 64, (count, 10), generator=generator)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[index], "labels": self.ids[index]}


def tiny_llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
        )
    )


def trainer(backend: str, folder: str) -> Trainer:
    set_seed(0)
    model = tiny_llama()
    model.compile(backend=backend)
    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=4,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        warmup_steps=1,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=2,
        save_steps=2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=0,
    )
    return Trainer(model=model, args=arguments, train_dataset=Sentences(16), eval_dataset=Sentences(4))


def main(backend: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        run = trainer(backend, folder)
        run.train()
        resumed = trainer(backend, folder)
        resumed.train(resume_from_checkpoint=f"{folder}/checkpoint-2")
    logged = [
        {name: entry[name] for name in ("loss", "grad_norm", "learning_rate", "eval_loss") if name in entry}
        for entry in run.state.log_history
    ]
    return {"log": logged, "weights": run.model.state_dict(), "resumed": resumed.model.state_dict()}
