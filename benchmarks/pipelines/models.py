"""The models whose calls are shared out, with random weights; and how large their weights and caches are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from dynamo_genie.bench.pipelines.plan import PHASES

_CACHE_GROWTH = 4
_LIMIT = 1.08
"""Of what placement wants. It leaves a tenth of every limit to what comes and goes: it gives away less than that."""
_LEAST = 32 << 20
"""What a daemon needs to be measured and to compute with at all."""
_SPREAD = 0.25 * (32 / 768) ** 0.5
"""Standard deviation of weights: wide enough that greedy decoding does not settle on one token at once."""


@dataclass(frozen=True)
class Architecture:
    """A class of transformers, what makes its configuration, and the width and height of images that it sees."""

    name: str
    config: Callable[[], Any]
    image: int = 224


def _gpt2() -> Any:
    from transformers import GPT2Config

    return GPT2Config(n_positions=8192, initializer_range=_SPREAD, eos_token_id=None, bos_token_id=None)


def _llama() -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=32_000, hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12,
        num_key_value_heads=4, max_position_embeddings=8192, tie_word_embeddings=True, initializer_range=_SPREAD,
    )  # fmt: skip


def _tiny_gpt2() -> Any:
    from transformers import GPT2Config

    return GPT2Config(n_positions=2048, n_layer=2, n_embd=64, n_head=4, vocab_size=500, initializer_range=0.1)


def _tiny_llama() -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=500, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True, initializer_range=0.1,
    )  # fmt: skip


def _vit() -> Any:
    from transformers import ViTConfig

    return ViTConfig()


def _resnet() -> Any:
    from transformers import ResNetConfig

    return ResNetConfig()


def _convnext() -> Any:
    from transformers import ConvNextConfig

    return ConvNextConfig(layer_scale_init_value=1.0)  # else a new model's branches are as good as off


def _tiny_vit() -> Any:
    from transformers import ViTConfig

    return ViTConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, image_size=32, patch_size=8
    )


def _tiny_resnet() -> Any:
    from transformers import ResNetConfig

    return ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic")


def _tiny_convnext() -> Any:
    from transformers import ConvNextConfig

    return ConvNextConfig(hidden_sizes=[16, 32], depths=[1, 1], num_stages=2, layer_scale_init_value=1.0)


MODELS = MappingProxyType(
    {
        "gpt2-8k": Architecture("GPT2LMHeadModel", _gpt2),
        "llama-100m": Architecture("LlamaForCausalLM", _llama),
        "vit-base": Architecture("ViTForImageClassification", _vit),
        "resnet-50": Architecture("ResNetForImageClassification", _resnet),
        "convnext-tiny": Architecture("ConvNextForImageClassification", _convnext),
        "tiny-gpt2": Architecture("GPT2LMHeadModel", _tiny_gpt2),
        "tiny-llama": Architecture("LlamaForCausalLM", _tiny_llama),
        "tiny-vit": Architecture("ViTForImageClassification", _tiny_vit, 32),
        "tiny-resnet": Architecture("ResNetForImageClassification", _tiny_resnet, 32),
        "tiny-convnext": Architecture("ConvNextForImageClassification", _tiny_convnext, 32),
    }
)


def build(name: str, dtype: torch.dtype, seed: int) -> Any:
    """Return a model in evaluation mode, with the weights that its class begins with."""
    import transformers

    architecture = MODELS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return getattr(transformers, architecture.name)(architecture.config()).to(dtype).eval()


def scarce_nbytes(name: str, rows: int, itemsize: int) -> int:
    """Return a memory limit under which a daemon has room for a part of a model only, and two daemons for all of it.

    It is a little more than what the weights and the prompt's caches take, with the room to grow that placement wants
    for caches; of that, placement gives nearly all away, and not quite enough.
    """
    import transformers

    architecture = MODELS[name]
    config = architecture.config()
    with torch.device("meta"):
        model = getattr(transformers, architecture.name)(config)
    weights = sum(parameter.numel() for parameter in model.parameters()) * itemsize
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    head_dim = config.hidden_size // config.num_attention_heads
    caches = 2 * config.num_hidden_layers * heads * head_dim * rows * itemsize if PHASES[name] == "prefill" else 0
    return int(max(_LEAST, _LIMIT * (weights + _CACHE_GROWTH * caches)))
