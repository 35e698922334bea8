"""Tiny models of many families and the calls that make them prefill, decode, encode or see. Seeded, no downloads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

from dynamo_genie.passes.graphs.semantics import Phase
from tests.integration.models import VOCAB, make_model

_SHAPE = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=64,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
_GROUPED = dict(_SHAPE, num_key_value_heads=2)
_GPT = dict(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2)
_SEQ2SEQ = dict(
    vocab_size=VOCAB, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
    decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64,
    pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, forced_eos_token_id=None,
)  # fmt: skip
_IMAGES = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=16, patch_size=8
)
_MOE = dict(_GROUPED, moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2)


def _llava() -> nn.Module:
    text = hf.LlamaConfig(**_GROUPED)
    vision = hf.CLIPVisionConfig(**_IMAGES)
    config = hf.LlavaConfig(text_config=text, vision_config=vision, image_token_index=5, vision_feature_layer=-1)
    return hf.LlavaForConditionalGeneration(config)


def _paligemma() -> nn.Module:
    text = hf.GemmaConfig(**_GROUPED, head_dim=8)
    vision = hf.SiglipVisionConfig(**_IMAGES)
    config = hf.PaliGemmaConfig(
        text_config=text, vision_config=vision, image_token_index=5, projection_dim=32, hidden_size=32
    )
    return hf.PaliGemmaForConditionalGeneration(config)


def _blip() -> nn.Module:
    text = dict(_SHAPE, encoder_hidden_size=32)
    config = hf.BlipConfig(text_config=text, vision_config=_IMAGES, projection_dim=16, image_text_hidden_size=16)
    return hf.BlipForConditionalGeneration(config)


def _deepseek() -> nn.Module:
    config = hf.DeepseekV3Config(
        **_SHAPE, num_key_value_heads=4, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=4, qk_nope_head_dim=8,
        v_head_dim=8, n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1, moe_intermediate_size=16,
        first_k_dense_replace=1,
    )  # fmt: skip
    return hf.DeepseekV3ForCausalLM(config)


def _jamba() -> nn.Module:
    config = hf.JambaConfig(
        **_GROUPED, attn_layer_period=2, attn_layer_offset=1, num_experts=1, use_mamba_kernels=False,
        mamba_d_state=4, mamba_dt_rank=4,
    )  # fmt: skip
    return hf.JambaForCausalLM(config)


_MODELS: dict[str, Callable[[], nn.Module]] = {
    "gpt_neo": lambda: hf.GPTNeoForCausalLM(
        hf.GPTNeoConfig(
            vocab_size=VOCAB, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]],
            window_size=4, max_position_embeddings=64, intermediate_size=64,
        )
    ),
    "gpt_bigcode": lambda: hf.GPTBigCodeForCausalLM(hf.GPTBigCodeConfig(**_GPT, multi_query=True)),
    "codegen": lambda: hf.CodeGenForCausalLM(hf.CodeGenConfig(**_GPT, n_ctx=64, rotary_dim=4)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**_GROUPED)),
    "gemma2": lambda: hf.Gemma2ForCausalLM(
        hf.Gemma2Config(**_GROUPED, head_dim=8, sliding_window=6, query_pre_attn_scalar=8)
    ),
    "opt": lambda: hf.OPTForCausalLM(
        hf.OPTConfig(
            vocab_size=VOCAB, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=64, word_embed_proj_dim=32,
        )
    ),
    "bloom": lambda: hf.BloomForCausalLM(hf.BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=2, n_head=4)),
    "falcon": lambda: hf.FalconForCausalLM(
        hf.FalconConfig(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, multi_query=True)
    ),
    "mpt": lambda: hf.MptForCausalLM(hf.MptConfig(vocab_size=VOCAB, d_model=32, n_layers=2, n_heads=4, max_seq_len=64)),
    "starcoder2": lambda: hf.Starcoder2ForCausalLM(hf.Starcoder2Config(**_GROUPED, sliding_window=6)),
    "cohere": lambda: hf.CohereForCausalLM(hf.CohereConfig(**_GROUPED)),
    "olmo": lambda: hf.OlmoForCausalLM(hf.OlmoConfig(**_GROUPED)),
    "olmo2": lambda: hf.Olmo2ForCausalLM(hf.Olmo2Config(**_GROUPED)),
    "stablelm": lambda: hf.StableLmForCausalLM(hf.StableLmConfig(**_GROUPED)),
    "phi": lambda: hf.PhiForCausalLM(hf.PhiConfig(**_GROUPED)),
    "granite": lambda: hf.GraniteForCausalLM(hf.GraniteConfig(**_GROUPED)),
    "qwen3_moe": lambda: hf.Qwen3MoeForCausalLM(hf.Qwen3MoeConfig(**_MOE, head_dim=8)),
    "olmoe": lambda: hf.OlmoeForCausalLM(hf.OlmoeConfig(**_GROUPED, num_experts=4, num_experts_per_tok=2)),
    "gpt_oss": lambda: hf.GptOssForCausalLM(
        hf.GptOssConfig(**_GROUPED, head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=6)
    ),
    "deepseek_v3": _deepseek,
    "mamba": lambda: hf.MambaForCausalLM(hf.MambaConfig(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2)),
    "jamba": _jamba,
    "mbart": lambda: hf.MBartForConditionalGeneration(hf.MBartConfig(**_SEQ2SEQ)),
    "pegasus": lambda: hf.PegasusForConditionalGeneration(hf.PegasusConfig(**_SEQ2SEQ)),
    "marian": lambda: hf.MarianMTModel(hf.MarianConfig(**_SEQ2SEQ)),
    "roberta": lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**_SHAPE)),
    "electra": lambda: hf.ElectraModel(hf.ElectraConfig(**_SHAPE, embedding_size=32)),
    "albert": lambda: hf.AlbertModel(hf.AlbertConfig(**_SHAPE, embedding_size=16)),
    "deberta_v2": lambda: hf.DebertaV2Model(
        hf.DebertaV2Config(**_SHAPE, relative_attention=True, pos_att_type=["p2c", "c2p"])
    ),
    "modernbert": lambda: hf.ModernBertForMaskedLM(
        hf.ModernBertConfig(**_SHAPE, local_attention=4, cls_token_id=1, sep_token_id=2)
    ),
    "swin": lambda: hf.SwinModel(
        hf.SwinConfig(image_size=16, patch_size=2, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=2)
    ),
    "dinov2": lambda: hf.Dinov2Model(hf.Dinov2Config(**{k: v for k, v in _IMAGES.items() if k != "intermediate_size"})),
    "beit": lambda: hf.BeitModel(hf.BeitConfig(**_IMAGES)),
    "resnet": lambda: hf.ResNetModel(
        hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ),
    "wav2vec2": lambda: hf.Wav2Vec2Model(
        hf.Wav2Vec2Config(
            **_SHAPE, conv_dim=(8, 8), conv_stride=(5, 2), conv_kernel=(10, 3), num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2, num_feat_extract_layers=2, do_stable_layer_norm=True,
        )
    ),
    "llava": _llava,
    "paligemma": _paligemma,
    "blip": _blip,
}  # fmt: skip


def make(name: str) -> nn.Module:
    """A tiny model of a family in evaluation mode, with seeded random weights."""
    if name not in _MODELS:
        return make_model(name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _MODELS[name]().eval()


@dataclass(frozen=True)
class Family:
    """A family, how it is called, and what its first call is."""

    name: str
    kind: str
    caches: tuple[str, ...] = ()
    first: Phase = Phase.PREFILL


_DECODERS = """gpt2 gptj gpt_neox gpt_neo gpt_bigcode codegen llama mistral qwen2 qwen3 gemma2 gemma3 phi phi3 opt bloom
falcon mpt starcoder2 cohere olmo olmo2 stablelm granite mixtral qwen3_moe olmoe gpt_oss deepseek_v3""".split()
_STATIC = frozenset("gpt2 llama mistral qwen3 gemma2 gemma3 phi3 gpt_neox mixtral opt".split())
_QUANTISED = frozenset("gpt2 llama".split())


_OFTEN = frozenset(
    """gpt2 gpt_neox gpt_bigcode llama mistral qwen3 gemma3 phi3 opt bloom falcon starcoder2 cohere mixtral gpt_oss
    deepseek_v3 mamba jamba t5 bart whisper bert distilbert deberta_v2 modernbert wav2vec2 vit convnext swin clip siglip
    llava""".split()
)
_ALL_CACHES_OFTEN = frozenset("gpt2 llama mistral gemma3 whisper".split())


def is_quick(family: Family, cache: str) -> bool:
    """Whether a case belongs to the fast tests; the others are marked slow."""
    return family.name in _OFTEN and (cache in ("-", "dynamic") or family.name in _ALL_CACHES_OFTEN)


def families() -> list[Family]:
    """All families, by kind."""
    found = [Family(name, "decoder", _caches_of(name)) for name in _DECODERS]
    found += [Family("mamba", "recurrent", (), Phase.OTHER), Family("jamba", "hybrid", ("dynamic",))]
    found += [Family(name, "encoder-decoder", ("dynamic",)) for name in "t5 bart mbart pegasus marian".split()]
    found += [Family("whisper", "speech", ("dynamic", "static"))]
    encoders = "bert roberta distilbert electra albert deberta_v2 modernbert".split()
    found += [Family(name, "encoder", (), Phase.ENCODE) for name in encoders]
    found += [Family("wav2vec2", "sound", (), Phase.ENCODE)]
    found += [Family(name, "vision", (), Phase.VISION) for name in "vit convnext swin dinov2 beit resnet".split()]
    found += [Family(name, "two towers", (), Phase.ENCODE) for name in "clip siglip".split()]
    found += [Family(name, "sees and speaks", ("dynamic",)) for name in "llava paligemma".split()]
    return found


def _caches_of(name: str) -> tuple[str, ...]:
    static = ("static",) if name in _STATIC else ()
    return ("dynamic", *static, *(("quantised",) if name in _QUANTISED else ()))


def first_call(family: Family, length: int = 7) -> dict[str, Tensor]:
    """What the first call of a family is given, its cache apart."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(6, VOCAB, (1, length), generator=generator)
    size = 32 if family.name == "convnext" else 16
    pixels = torch.randn(1, 3, size, size, generator=generator)
    if family.kind in ("decoder", "recurrent", "hybrid"):
        return {"input_ids": ids}
    if family.kind == "encoder-decoder":
        return {"input_ids": ids, "decoder_input_ids": ids[:, :3]}
    if family.kind == "speech":
        return {"input_features": torch.randn(1, 8, 32, generator=generator), "decoder_input_ids": ids[:, :3]}
    if family.kind == "encoder":
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if family.kind == "sound":
        return {"input_values": torch.randn(1, 400, generator=generator)}
    if family.kind == "vision":
        return {"pixel_values": pixels}
    if family.kind == "two towers":
        return {"input_ids": ids, "pixel_values": pixels, "attention_mask": torch.ones_like(ids)}
    ids[:, :4] = 5  # one image token a patch
    return {"input_ids": ids, "pixel_values": pixels, "attention_mask": torch.ones_like(ids)}


def next_call(family: Family, results: Any, done: int) -> dict[str, Any]:
    """What a call for one more token is given, its cache apart."""
    token = torch.tensor([[7]])
    if family.kind in ("encoder-decoder", "speech"):
        encoded = hf.modeling_outputs.BaseModelOutput(last_hidden_state=results.encoder_last_hidden_state)
        return {"encoder_outputs": encoded, "decoder_input_ids": token}
    if family.kind == "sees and speaks":
        return {"input_ids": token, "attention_mask": torch.ones(1, done + 1, dtype=torch.long)}
    return {"input_ids": token}


def make_cache(family: Family, kind: str, model: nn.Module) -> Any:
    """A new, empty cache object of `transformers`."""
    config = model.config.get_text_config(decoder=True)
    if kind == "quantised":
        return hf.QuantizedCache("fp8", config)
    dynamic = kind == "dynamic"
    make_one = lambda: hf.DynamicCache(config=config) if dynamic else hf.StaticCache(config=config, max_cache_len=16)
    if family.kind in ("encoder-decoder", "speech"):
        return hf.EncoderDecoderCache(make_one(), make_one())
    return make_one()


def cache_tensors(cache: Any) -> list[Tensor]:
    """The tensors in which a cache object keeps keys and values now."""
    if isinstance(cache, hf.EncoderDecoderCache):
        return [*cache_tensors(cache.self_attention_cache), *cache_tensors(cache.cross_attention_cache)]
    tensors = []
    for layer in cache.layers:
        quantised = [getattr(layer, name, None) for name in ("_quantized_keys", "_quantized_values")]
        kept = [pair[0] for pair in quantised if pair] or [getattr(layer, name, None) for name in ("keys", "values")]
        tensors += [tensor for tensor in kept if isinstance(tensor, Tensor) and tensor.numel()]
    return tensors
