"""Gradient checkpointing draws in the backward what it drew in the forward, and leaves the generator as eager does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import dynamo_genie
from tests.integration.conftest import BACKEND_NAME
from tests.integration.semantics.operators.reference import assert_like_aot_eager

WAYS = ({"use_reentrant": False}, {"use_reentrant": True}, {"use_reentrant": False, "preserve_rng_state": False})


class Block(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.project, self.out, self.dropout = nn.Linear(8, 24), nn.Linear(8, 8), dropout

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.project(x).view(2, 6, 3, 2, 4).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value, dropout_p=self.dropout, is_causal=True)
        return x + F.dropout(self.out(seen.transpose(1, 2).reshape(2, 6, 8)), self.dropout)


class Network(nn.Module):
    """Each way to checkpoint, with and without dropout, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dropout) for dropout in (0.0, 0.3) for _ in WAYS)

    def forward(self, x: Tensor) -> Tensor:
        for block, way in zip(self.blocks, 2 * WAYS, strict=True):
            x = checkpoint(block, x, **way)
        return x.sum() + torch.rand_like(x).sum()


def test_checkpointed_steps_equal_aot_eager(backend: Any) -> None:
    torch.manual_seed(1)
    assert_like_aot_eager(backend, Network().train(), torch.randn(2, 6, 8), grad=True)


@pytest.mark.skipif(BACKEND_NAME != "genie", reason="counts what crosses the wire")
def test_checkpointed_attention_without_dropout_does_not_wait_for_the_generator(compiled: Any) -> None:
    block = Block(0.0)
    call = compiled(lambda x: checkpoint(block, x, use_reentrant=False).exp())
    x = torch.randn(2, 6, 8, requires_grad=True)
    call(x)
    dynamo_genie.reset_stats()
    result = call(x)
    assert dynamo_genie.stats()["total"]["round_trips"] == 0
    del result


@pytest.mark.slow
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_transformers_gradient_checkpointing(backend: Any, use_reentrant: bool) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, attention_dropout=0.2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Tensor) -> Tensor:
            return self.model(input_ids=ids, labels=ids, use_cache=False).loss

    assert_like_aot_eager(backend, Loss(), torch.randint(0, 64, (2, 7)), grad=True)
