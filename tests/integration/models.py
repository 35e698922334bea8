"""Tiny models with the structure of the real ones, by name: seeded random weights, no downloads.

The weights are drawn wide (standard deviation 0.2 and more), so that greedy decoding does not settle on one token
and a wrong cache entry changes the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers as hf
from torch import nn

VOCAB = 128
_SPREAD = 0.25

_DECODER = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=128,
    initializer_range=_SPREAD,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
_GPT = dict(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=_SPREAD)
_NO_DROPOUT = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
_SEQ2SEQ = dict(
    vocab_size=VOCAB,
    d_model=32,
    encoder_layers=2,
    decoder_layers=2,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=64,
    decoder_ffn_dim=64,
    init_std=_SPREAD,
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


def _gpt2(**changes: Any) -> nn.Module:
    return hf.GPT2LMHeadModel(hf.GPT2Config(**{**_GPT, **_NO_DROPOUT, "bos_token_id": 1, "eos_token_id": 2, **changes}))


def _gptj() -> nn.Module:
    return hf.GPTJForCausalLM(hf.GPTJConfig(**_GPT, **_NO_DROPOUT, rotary_dim=4, bos_token_id=1, eos_token_id=2))


def _gpt_neox() -> nn.Module:
    shape = {k: v for k, v in _DECODER.items() if k not in ("num_key_value_heads", "head_dim")}
    return hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**shape))


def _llama(**changes: Any) -> nn.Module:
    return hf.LlamaForCausalLM(hf.LlamaConfig(**{**_DECODER, **changes}))


def _mistral() -> nn.Module:
    return hf.MistralForCausalLM(hf.MistralConfig(**_DECODER, sliding_window=6))


def _qwen3() -> nn.Module:
    return hf.Qwen3ForCausalLM(hf.Qwen3Config(**_DECODER))


def _gemma2() -> nn.Module:
    """A window that no prompt here fills: the cache keeps its length as a number beside its tensors."""
    return hf.Gemma2ForCausalLM(hf.Gemma2Config(**_DECODER, sliding_window=32, query_pre_attn_scalar=8))


def _gemma3() -> nn.Module:
    layers = ["sliding_attention", "full_attention"]
    config = hf.Gemma3TextConfig(**_DECODER, sliding_window=6, layer_types=layers, query_pre_attn_scalar=8)
    return hf.Gemma3ForCausalLM(config)


def _phi3() -> nn.Module:
    shape = {k: v for k, v in _DECODER.items() if k != "head_dim"}
    return hf.Phi3ForCausalLM(hf.Phi3Config(**shape))


def _mixtral() -> nn.Module:
    return hf.MixtralForCausalLM(hf.MixtralConfig(**_DECODER, num_local_experts=4, num_experts_per_tok=2))


def _t5() -> nn.Module:
    config = hf.T5Config(
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
    "gpt2": _gpt2,
    "gptj": _gptj,
    "gpt_neox": _gpt_neox,
    "llama": _llama,
    "mistral": _mistral,
    "qwen3": _qwen3,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "phi3": _phi3,
    "mixtral": _mixtral,
    "t5": _t5,
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
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _FACTORIES[name](**changes).eval()
    if hasattr(model, "generation_config"):
        _generate_to_the_full_length(model)
    return model


def _generate_to_the_full_length(model: nn.Module) -> None:
    """No early end of text, and no compiling by `generate()` itself: the tests compile what they mean to."""
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


def audio_prompt(*, batch: int = 1, seed: int = 1) -> Prompt:
    """Random mel features of the only length that the tiny Whisper accepts."""
    generator = torch.Generator().manual_seed(seed)
    return Prompt({"input_features": torch.randn(batch, 8, 32, generator=generator)})


def image_prompt(*, batch: int = 2, size: int = 16, seed: int = 1) -> Prompt:
    generator = torch.Generator().manual_seed(seed)
    return Prompt({"pixel_values": torch.randn(batch, 3, size, size, generator=generator)})
