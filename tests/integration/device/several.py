"""What several devices must do; run in a process of its own, with two daemons in `GENIE_DAEMONS`."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import dynamo_genie
from dynamo_genie.device.register import register_device
from dynamo_genie.errors import EngineWarning

FIRST, SECOND = "remote_accelerator:0", "remote_accelerator:1"


def main() -> None:
    """Check all."""
    register_device()
    torch.set_num_threads(1)
    assert torch.remote_accelerator.device_count() == 2
    here = torch.arange(6.0).reshape(2, 3)
    first = here.to(FIRST)

    dynamo_genie.reset_stats()
    second = first.to(SECOND)  # from daemon to daemon
    assert second.device == torch.device(SECOND)
    assert dynamo_genie.stats()["total"]["received"]["output"] == 0
    assert torch.equal(second.cpu(), here)
    assert torch.equal(first.t().to(SECOND).cpu(), here.t())
    first.copy_(second * 2)
    assert torch.equal(first.cpu(), here * 2)
    with pytest.raises(RuntimeError, match="remote_accelerator:0 and remote_accelerator:1"):
        first + second
    with torch.remote_accelerator.device(1):
        assert torch.zeros(1, device="remote_accelerator").device == torch.device(SECOND)

    torch.manual_seed(0)
    parts = nn.Linear(3, 4), nn.Linear(4, 2)
    expected = parts[1](parts[0](here))
    expected.sum().backward()
    gradients = [parameter.grad for part in parts for parameter in part.parameters()]
    for part in parts:
        part.zero_grad(set_to_none=True)
    parts[0].to(FIRST), parts[1].to(SECOND)
    for run in (parts, [torch.compile(part, backend="genie") for part in parts]):
        out = run[1](run[0](here.to(FIRST)).to(SECOND))
        assert out.device == torch.device(SECOND)
        assert torch.equal(out.detach().cpu(), expected.detach())
        out.sum().backward()
        found = [parameter.grad for part in parts for parameter in part.parameters()]
        assert [gradient.device.index for gradient in found] == [0, 0, 1, 1]
        assert all(torch.equal(a.cpu(), b) for a, b in zip(found, gradients, strict=True))
        for part in parts:
            part.zero_grad(set_to_none=True)

    @torch.compile(backend="genie")
    def across(data: torch.Tensor) -> torch.Tensor:
        return parts[1](parts[0](data).to(SECOND))

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        out = across(here.to(FIRST))
    assert [str(w.message)[:76] for w in warned if w.category is EngineWarning] == [
        "a graph with tensors on remote_accelerator:0 and on remote_accelerator:1 runs"[:76]
    ]
    assert torch.equal(out.cpu(), expected.detach())
    dispatched()
    dynamo_genie.shutdown()


def dispatched() -> None:
    """A model of transformers over two devices by accelerate's `device_map` generates as on the CPU."""
    from accelerate import dispatch_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=100, pad_token_id=0,
    )  # fmt: skip
    model, prompt = LlamaForCausalLM(config).eval(), torch.tensor([[1, 2, 3, 4]])
    expected = model.generate(prompt, max_new_tokens=5, do_sample=False)
    places = {"model.embed_tokens": FIRST, "model.rotary_emb": FIRST, "model.layers.0": FIRST}
    places |= dict.fromkeys(("model.layers.1", "model.norm", "lm_head"), SECOND)
    placed = dispatch_model(model, device_map=places)
    assert placed.generate(prompt.to(FIRST), max_new_tokens=5, do_sample=False).tolist() == expected.tolist()


if __name__ == "__main__":
    main()
