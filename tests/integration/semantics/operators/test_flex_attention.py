"""Flex attention gives what its math form gives under `aot_eager` on a CPU, the only form that PyTorch has there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from tests.integration.compare import same
from tests.integration.semantics.operators.reference import assert_like_aot_eager

LENGTH = 24
QUERY, KEY, VALUE = (
    torch.randn(2, heads, LENGTH, 8, generator=torch.manual_seed(i)) for i, heads in enumerate((4, 2, 2))
)
BIAS = torch.linspace(-1, 1, LENGTH)
DOCUMENT = torch.tensor([0] * 9 + [1] * (LENGTH - 9))


def mask(rule: Callable[..., Any]) -> Any:
    return create_block_mask(rule, None, None, LENGTH, LENGTH, device="cpu")


CAUSAL = mask(lambda b, h, q, kv: q >= kv)
WINDOW = mask(lambda b, h, q, kv: (q >= kv) & (q - kv < 5))
ONE_DOCUMENT = mask(lambda b, h, q, kv: DOCUMENT[q] == DOCUMENT[kv])


def masks(query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
    return [flex_attention(query, key, value, block_mask=it, enable_gqa=True) for it in (CAUSAL, WINDOW, ONE_DOCUMENT)]


def scores(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    biased = flex_attention(
        query, key, value, score_mod=lambda s, b, h, q, kv: s * h + BIAS[kv], block_mask=CAUSAL, enable_gqa=True
    )
    tanh = flex_attention(
        query, key, value, score_mod=lambda s, b, h, q, kv: (s / 3).tanh(), scale=0.3, enable_gqa=True
    )
    return biased, tanh


def with_logsumexp(query: Tensor, key: Tensor, value: Tensor) -> Any:
    laid_out = query.transpose(1, 2).contiguous().transpose(1, 2)
    return flex_attention(laid_out, key, value, enable_gqa=True, return_lse=True)


def mask_made_inside(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    own = create_block_mask(lambda b, h, q, kv: q >= kv, None, None, query.size(2), key.size(2), device="cpu")
    return flex_attention(query, key, value, block_mask=own, enable_gqa=True)


def all_of_it(query: Tensor, key: Tensor, value: Tensor) -> list[Any]:
    return [way(query, key, value) for way in (masks, scores, with_logsumexp, mask_made_inside)]


def test_flex_attention_equals_its_math_form(backend: Any) -> None:
    assert_like_aot_eager(backend, all_of_it, QUERY, KEY, VALUE)


def test_half_precision(backend: Any) -> None:
    assert_like_aot_eager(backend, scores, *(it.bfloat16() for it in (QUERY, KEY, VALUE)), calls=1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sizes_that_change(backend: Any) -> None:
    call, reference = (torch.compile(mask_made_inside, backend=it, dynamic=True) for it in (backend, "aot_eager"))
    with torch.no_grad():
        for length in (7, 16, LENGTH):
            shorter = tuple(it[:, :, :length] for it in (QUERY, KEY, VALUE))
            same(call(*shorter), reference(*shorter))


@pytest.mark.sweep
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_generate_with_flex_attention(backend: Any) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, attn_implementation="flex_attention",
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    prompt = torch.randint(0, 64, (2, 9), generator=torch.manual_seed(1))
    found = []
    for one in ("aot_eager", backend):
        torch._dynamo.reset()
        model.forward = torch.compile(type(model).forward.__get__(model), backend=one)
        found.append(
            model.generate(prompt, max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True)
        )
    same(found[1].sequences, found[0].sequences)
    same(list(found[1].logits), list(found[0].logits))
