"""LoRA by PEFT on a tiny GPT-2: only adapters train, then the adapter is switched off, merged, and saved."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel


def base_model() -> GPT2LMHeadModel:
    torch.manual_seed(1)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_positions=64, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    )


def main(backend: str) -> dict[str, Any]:
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["c_attn", "c_proj"], lora_dropout=0.1, fan_in_fan_out=True)
    model = get_peft_model(base_model(), config)
    compiled = torch.compile(model, backend=backend)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    losses = []
    model.train()
    for _ in range(5):
        ids = torch.randint(0, 64, (2, 8))
        loss = compiled(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    prompt = torch.tensor([[5, 9, 2]])
    with torch.no_grad():
        adapted = compiled(input_ids=prompt).logits
        with model.disable_adapter():
            plain = compiled(input_ids=prompt).logits
    tokens = model.generate(input_ids=prompt, max_new_tokens=8, do_sample=False, pad_token_id=0)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        restored = PeftModel.from_pretrained(base_model(), folder)
    merged = restored.merge_and_unload()
    merged.eval()
    merged.forward = torch.compile(merged.forward, backend=backend)
    merged_tokens = merged.generate(input_ids=prompt, max_new_tokens=8, do_sample=False, pad_token_id=0)
    adapters = {name: value for name, value in model.state_dict().items() if "lora" in name}
    return {
        "losses": losses,
        "adapted": adapted,
        "plain": plain,
        "tokens": tokens.tolist(),
        "merged": merged_tokens.tolist(),
        "adapters": adapters,
    }
