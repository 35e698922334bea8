"""One process that generates with a llama, for figures: with weights that a daemon has, or with all of them here.

`python -m tests.integration.loading.generating CONFIG NAME` fills a model on meta by `load_weights`, on the daemon of
GENIE_DAEMONS; with `here` for NAME it reads the shards beside CONFIG. Prints JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

import dynamo_genie

PROMPT, TOKENS = [[5, 17, 300, 2, 44]], 8
INDEX = "model.safetensors.index.json"


def peak_mb() -> int:
    """The most memory that this process has had, in MB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1000


def write_llama(folder: Path, config: LlamaConfig) -> int:
    """Write a llama of random weights, a shard a layer, without ever holding all of it; return its bytes."""
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    shards: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in model.state_dict().items():
        part = name.split(".")[2] if ".layers." in name else "rest"
        shards.setdefault(f"model-{part}.safetensors", {})[name] = tensor
    for file, tensors in shards.items():
        made = {n: torch.ones(t.shape) if t.dim() == 1 else torch.randn(t.shape) * 0.05 for n, t in tensors.items()}
        save_file(made, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, tensors in shards.items() for name in tensors}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return sum(tensor.nbytes for tensor in model.state_dict().values())


def generate(model: Any, device: str) -> list[int]:
    ids = torch.tensor(PROMPT, device=device)
    options = {"max_new_tokens": TOKENS, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    tokens: list[int] = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0].tolist()
    return tokens


def main(config: str, name: str) -> None:
    torch.set_num_threads(1)
    found: dict[str, Any] = {"imports_mb": peak_mb()}
    if name == "here":
        model = LlamaForCausalLM.from_pretrained(Path(config).parent, dtype=torch.float32).eval()
        found["eager"] = generate(model, "cpu")
    else:
        with torch.device("meta"):
            model = LlamaForCausalLM(LlamaConfig.from_pretrained(config)).eval()
        began = time.monotonic()
        dynamo_genie.load_weights(model, name, device="remote_accelerator:0")
        found["load_s"] = round(time.monotonic() - began, 2)
        found["eager"] = generate(model, "remote_accelerator:0")
        found["eager_mb"] = peak_mb()
        model.forward = torch.compile(model.forward, backend="genie")
        found["compiled"] = generate(model, "remote_accelerator:0")
        total = dynamo_genie.stats()["total"]
        found["sent"], found["received"] = total["sent_total"], total["received_total"]
        dynamo_genie.shutdown()
    found["peak_mb"] = peak_mb()
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
