"""Every attention is found once, whole or spelled out, with its lengths, its mask and whose keys it looks at."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynamo_genie.passes.graphs.semantics import Phase
from dynamo_genie.passes.understanding.attention import Attention
from tests.integration.models import make_model
from tests.passes.understood import understand

Q, K, D = 5, 7, 4


def attentions_of(function: Callable[..., Any], *inputs: Any, **named: Any) -> tuple[Attention, ...]:
    compiled, calls = understand(function)
    with torch.no_grad():
        compiled(*inputs, **named)
    return tuple(attention for call in calls for attention in call.analysis.attentions)


def softmaxed(scores: Tensor, value: Tensor) -> Tensor:
    return scores.softmax(-1) @ value


def scaled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return softmaxed(q @ k.mT / math.sqrt(D), v)


def in_one_call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def with_a_bias_added_by_the_product(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    bias = torch.arange(K, dtype=torch.float32).expand(2, Q, K)
    return softmaxed(torch.baddbmm(bias, q, k.mT, beta=0.5, alpha=0.5), v)


def with_a_softmax_in_another_type(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q @ k.mT).to(torch.float64).softmax(-1)
    return scores.to(v.dtype) @ v


def with_a_soft_cap(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return softmaxed(torch.tanh(q @ k.mT / 5) * 5, v)


def with_a_sink(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.cat([q @ k.mT, torch.ones(2, Q, 1)], -1)
    return scores.softmax(-1)[..., :-1] @ v


def as_einstein_writes_it(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("bqk,bkd->bqd", torch.einsum("bqd,bkd->bqk", q, k).softmax(-1), v)


def keys_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (v.mT @ (k @ q.mT).softmax(-2)).mT


WAYS = [
    scaled, in_one_call, with_a_bias_added_by_the_product, with_a_softmax_in_another_type, with_a_soft_cap,
    with_a_sink, as_einstein_writes_it,
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_one_attention_is_found_with_its_lengths(way: Callable[..., Tensor]) -> None:
    q, k, v = (torch.randn(2, length, D) for length in (Q, K, K))
    (attention,) = attentions_of(way, q, k, v)
    assert (attention.query_length, attention.key_length) == (Q, K)
    assert not attention.causal
    assert len({attention.query, attention.key, attention.value}) == 3


def test_keys_on_the_left_are_told_by_the_softmax() -> None:
    q, k, v = (torch.randn(2, length, D) for length in (Q, K, K))
    (attention,) = attentions_of(keys_first, q, k, v)
    assert attention.key_length == K


def arange_mask(length: int) -> Tensor:
    return torch.arange(length)[None, :] <= torch.arange(length)[:, None]


MASKS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "comparison": (lambda s: s.masked_fill(~arange_mask(Q), -math.inf), True),
    "triangle": (lambda s: s + torch.full((Q, Q), -math.inf).triu(1), True),
    "where": (lambda s: torch.where(torch.ones(Q, Q, dtype=torch.bool).tril(), s, -math.inf), True),
    "distance": (lambda s: s - (torch.arange(Q)[None, :] - torch.arange(Q)[:, None]).abs(), False),
    "window": (lambda s: s.masked_fill((torch.arange(Q)[:, None] - torch.arange(Q)).abs() > 1, -math.inf), False),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_of_later_positions_are_told_from_others(name: str) -> None:
    mask, causal = MASKS[name]
    q, k, v = (torch.randn(2, Q, D) for _ in range(3))
    (attention,) = attentions_of(lambda q, k, v: softmaxed(mask(q @ k.mT), v), q, k, v)
    assert attention.causal is causal
    assert attention.biases


class Stored(nn.Module):
    """A triangle kept as a buffer, as nanoGPT and the first GPT-2 do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bias", torch.tril(torch.ones(8, 8)).view(1, 8, 8))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q @ k.mT).masked_fill(self.bias[:, :Q, :Q] == 0, -math.inf)
        return softmaxed(scores, v)


def test_a_triangle_kept_as_a_buffer_is_causal() -> None:
    (attention,) = attentions_of(Stored(), *(torch.randn(2, Q, D) for _ in range(3)))
    assert attention.causal


def gate(x: Tensor, weight: Tensor) -> Tensor:
    shares = (x @ weight).softmax(-1)
    return (shares.unsqueeze(-1) * x.unsqueeze(-2)).flatten(1) @ torch.ones(16, 2)


def scores_alone(x: Tensor, weight: Tensor) -> Tensor:
    return (x @ weight).softmax(-1)


@pytest.mark.parametrize("function", [gate, scores_alone], ids=lambda function: function.__name__)
def test_a_softmax_that_mixes_no_values_is_no_attention(function: Callable[..., Tensor]) -> None:
    assert attentions_of(function, torch.randn(3, 4), torch.randn(4, 4)) == ()


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3", "bart"])
def test_a_model_has_the_same_attentions_however_they_are_written(name: str, implementation: str) -> None:
    model = make_model(name)
    model.set_attn_implementation(implementation)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    run, calls = understand(model.forward)
    with torch.no_grad():
        run(input_ids=ids, **({"decoder_input_ids": ids[:, :3]} if name == "bart" else {}))
    (call,) = calls
    found = [(a.query_length, a.key_length, a.causal) for a in call.analysis.attentions]
    if name == "bart":
        decoder = [(3, 3, True), (3, 5, False)] * 2
        assert found == [(5, 5, False)] * 2 + decoder
    else:
        assert found == [(5, 5, True)] * 2
    assert all((a.softmax is not None) is (implementation == "eager") for a in call.analysis.attentions)
    assert call.analysis.phase is Phase.PREFILL
