"""Tiny models with the structure of the real ones, by name: seeded random weights, no downloads.

The weights are drawn wide (standard deviation 0.2 and more), so that greedy decoding does not settle on one token
and a wrong cache entry changes the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
import transformers as hf
from torch import nn

VOCAB = 128
SPREAD = 0.25

DECODER: MappingProxyType[str, Any] = MappingProxyType(
    dict(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
        initializer_range=SPREAD,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
)
GPT: MappingProxyType[str, Any] = MappingProxyType(
    dict(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=SPREAD)
)
NO_DROPOUT: MappingProxyType[str, float] = MappingProxyType(dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))


def _gpt2(**changes: Any) -> nn.Module:
    return hf.GPT2LMHeadModel(hf.GPT2Config(**{**GPT, **NO_DROPOUT, "bos_token_id": 1, "eos_token_id": 2, **changes}))


def _llama(**changes: Any) -> nn.Module:
    return hf.LlamaForCausalLM(hf.LlamaConfig(**{**DECODER, **changes}))


def _t5() -> nn.Module:
    config = hf.T5Config(  # type: ignore[call-arg]  # `decoder_start_token_id` is for its base class
        vocab_size=VOCAB,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        initializer_factor=2.0,
        pad_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=0,
    )
    return hf.T5ForConditionalGeneration(config)


TINY: MappingProxyType[str, Callable[..., nn.Module]] = MappingProxyType({"gpt2": _gpt2, "llama": _llama, "t5": _t5})


def make_tiny(name: str) -> nn.Module:
    """A tiny model in eval mode, always the same one."""
    return make_seeded(TINY[name])


def make_seeded(build: Callable[..., nn.Module], *, seed: int = 0, **changes: Any) -> nn.Module:
    """A model in eval mode; the same seed gives the same weights. It generates to the full length."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build(**changes).eval()
    if hasattr(model, "generation_config"):
        _generate_to_the_full_length(model)
    return model


def _generate_to_the_full_length(model: Any) -> None:
    """No early end of text, and no compiling by `generate()` itself: users compile what they mean to."""
    config = model.generation_config
    config.eos_token_id = None
    config.pad_token_id = 0
    config.disable_compile = True


@dataclass(frozen=True)
class Prompt:
    """What to pass to `forward` and `generate`."""

    inputs: dict[str, torch.Tensor]
    options: dict[str, Any] = field(default_factory=dict)


def token_prompt(*, batch: int = 1, length: int = 9, left_padding: int = 0, seed: int = 1) -> Prompt:
    """Random tokens; with `left_padding`, the first row starts with that many masked padding tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCAB, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    ids[0, :left_padding] = 0
    mask[0, :left_padding] = 0
    return Prompt({"input_ids": ids, "attention_mask": mask})
