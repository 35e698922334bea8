"""Tiny models with the structure of the real ones, by name: seeded random weights, no downloads.

The weights are drawn wide (standard deviation 0.2 and more), so that greedy decoding does not settle on one token
and a wrong cache entry changes the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from torch import nn

from dynamo_genie.bench.trust.tiny_models import (
    DECODER,
    GPT,
    NO_DROPOUT,
    SPREAD,
    TINY,
    VOCAB,
    Prompt,
    make_seeded,
    token_prompt,
)

_SEQ2SEQ = dict(
    vocab_size=VOCAB,
    d_model=32,
    encoder_layers=2,
    decoder_layers=2,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=64,
    decoder_ffn_dim=64,
    init_std=SPREAD,
    dropout=0.0,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    decoder_start_token_id=1,
)
_ENCODER = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=64,
)
_VISION = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=16, patch_size=8
)
_TEXT_TOWER = dict(_ENCODER, eos_token_id=2, bos_token_id=1, pad_token_id=0, projection_dim=16)


def _gptj() -> nn.Module:
    return hf.GPTJForCausalLM(hf.GPTJConfig(**GPT, **NO_DROPOUT, rotary_dim=4, bos_token_id=1, eos_token_id=2))


def _gpt_neox() -> nn.Module:
    shape = {k: v for k, v in DECODER.items() if k not in ("num_key_value_heads", "head_dim")}
    return hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**shape))


def _mistral() -> nn.Module:
    return hf.MistralForCausalLM(hf.MistralConfig(**DECODER, sliding_window=6))


def _qwen3() -> nn.Module:
    return hf.Qwen3ForCausalLM(hf.Qwen3Config(**DECODER))


def _gemma2() -> nn.Module:
    """A window that no prompt here fills: the cache keeps its length as a number beside its tensors."""
    return hf.Gemma2ForCausalLM(hf.Gemma2Config(**DECODER, sliding_window=32, query_pre_attn_scalar=8))


def _gemma3() -> nn.Module:
    layers = ["sliding_attention", "full_attention"]
    config = hf.Gemma3TextConfig(**DECODER, sliding_window=6, layer_types=layers, query_pre_attn_scalar=8)
    return hf.Gemma3ForCausalLM(config)


def _phi3() -> nn.Module:
    shape = {k: v for k, v in DECODER.items() if k != "head_dim"}
    return hf.Phi3ForCausalLM(hf.Phi3Config(**shape))


def _mixtral() -> nn.Module:
    return hf.MixtralForCausalLM(hf.MixtralConfig(**DECODER, num_local_experts=4, num_experts_per_tok=2))


def _bart() -> nn.Module:
    return hf.BartForConditionalGeneration(
        hf.BartConfig(**_SEQ2SEQ, max_position_embeddings=64, forced_eos_token_id=None)
    )


def _whisper() -> nn.Module:
    config = hf.WhisperConfig(
        **_SEQ2SEQ, num_mel_bins=8, max_source_positions=16, max_target_positions=64, begin_suppress_tokens=None
    )
    return hf.WhisperForConditionalGeneration(config)


def _bert(dropout: float = 0.0) -> nn.Module:
    rates = dict(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    return hf.BertForSequenceClassification(hf.BertConfig(**_ENCODER, **rates, num_labels=3))


def _distilbert() -> nn.Module:
    return hf.DistilBertModel(
        hf.DistilBertConfig(vocab_size=VOCAB, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=64)
    )


def _vit() -> nn.Module:
    rates = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return hf.ViTForImageClassification(hf.ViTConfig(**_VISION, **rates, num_labels=3))


def _convnext() -> nn.Module:
    return hf.ConvNextModel(hf.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], image_size=32))


def _clip() -> nn.Module:
    return hf.CLIPModel(hf.CLIPConfig(text_config=_TEXT_TOWER, vision_config=_VISION, projection_dim=16))


def _siglip() -> nn.Module:
    text = dict(_TEXT_TOWER, projection_size=32)
    return hf.SiglipModel(hf.SiglipConfig(text_config=text, vision_config=_VISION))


_FACTORIES: dict[str, Callable[..., nn.Module]] = {
    "gpt2": TINY["gpt2"],
    "gptj": _gptj,
    "gpt_neox": _gpt_neox,
    "llama": TINY["llama"],
    "mistral": _mistral,
    "qwen3": _qwen3,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "phi3": _phi3,
    "mixtral": _mixtral,
    "t5": TINY["t5"],
    "bart": _bart,
    "whisper": _whisper,
    "bert": _bert,
    "distilbert": _distilbert,
    "vit": _vit,
    "convnext": _convnext,
    "clip": _clip,
    "siglip": _siglip,
}


def make_model(name: str, *, seed: int = 0, **changes: Any) -> nn.Module:
    """A tiny model in eval mode; the same name and seed give the same weights."""
    return make_seeded(_FACTORIES[name], seed=seed, **changes)


def audio_prompt(*, batch: int = 1, seed: int = 1) -> Prompt:
    """Random mel features of the only length that the tiny Whisper accepts."""
    generator = torch.Generator().manual_seed(seed)
    return Prompt({"input_features": torch.randn(batch, 8, 32, generator=generator)})


def image_prompt(*, batch: int = 2, size: int = 16, seed: int = 1) -> Prompt:
    generator = torch.Generator().manual_seed(seed)
    return Prompt({"pixel_values": torch.randn(batch, 3, size, size, generator=generator)})


__all__ = ["VOCAB", "Prompt", "audio_prompt", "image_prompt", "make_model", "token_prompt"]
