"""Caches that no library announces are found by what attention reads, and nothing else is taken for one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from dynamo_genie.passes.graphs.semantics import Phase, Role, facts_of
from dynamo_genie.passes.understanding.kv_cache import CacheKind
from tests.passes import hidden_caches as hidden
from tests.passes.understood import Understood, place_of, understand

GROWN = [
    hidden.ListOfPairs, hidden.Dictionary, hidden.TimeFirst, hidden.Fused, hidden.Packed, hidden.Quantised,
    hidden.TurnedOnReading,
]  # fmt: skip
WRITTEN = [hidden.Ring, hidden.Rolled]
SEQUENCE_DIM = {hidden.TimeFirst: 0, hidden.Fused: 3}


def run(model: nn.Module, past: Any, length: int, position: int = 0) -> tuple[Any, Understood]:
    """Call a decoder compiled anew; return what it keeps and what was understood."""
    compiled, calls = understand(model)
    ids = torch.arange(length).view(1, -1)
    with torch.no_grad():
        _, kept = compiled(ids, past, torch.tensor(position))
    (call,) = calls
    return kept, call


def tensors(kept: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(kept) if isinstance(leaf, Tensor)]


def places(values: Iterable[Tensor]) -> set[tuple[object, ...]]:
    return {place_of(value) for value in values}


def held(call: Understood, side: str) -> list[Tensor]:
    """Return the tensors of the last call that were found to hold a cache before or after it."""
    values = dict(zip(call.gm.graph.find_nodes(op="placeholder"), call.inputs, strict=True))
    values |= dict(zip(call.gm.graph.output_node().args[0], call.outputs, strict=True))
    nodes = (getattr(cache, side) for cache in call.analysis.caches)
    return [values[node] for node in nodes if node in values]


@pytest.mark.parametrize("whole", [True, False], ids=["one-operator", "spelled-out"])
@pytest.mark.parametrize("kind", GROWN, ids=lambda kind: kind.__name__)
def test_every_tensor_of_a_growing_cache_is_found(kind: type[hidden.Decoder], whole: bool) -> None:
    model = kind(whole=whole).eval()
    kept, prefill = run(model, None, 5)
    assert places(held(prefill, "after")) == places(tensors(kept))
    assert {cache.kind for cache in prefill.analysis.caches} == {CacheKind.BORN}
    past = tensors(kept)
    kept, decode = run(model, kept, 1, 5)
    assert places(held(decode, "before")) == places(past)
    assert places(held(decode, "after")) == places(tensors(kept))
    assert decode.analysis.phase is Phase.DECODE
    for cache in decode.analysis.caches:
        assert cache.kind is CacheKind.GROWN
        assert cache.sequence_dim == SEQUENCE_DIM.get(kind, 2)
        assert cache.update is not None
        assert cache.update.target is torch.ops.aten.cat.default


@pytest.mark.parametrize("kind", WRITTEN, ids=lambda kind: kind.__name__)
def test_every_tensor_of_a_cache_written_in_place_is_found(kind: type[hidden.Decoder]) -> None:
    shape = (1, hidden.HEADS, hidden.WINDOW, hidden.HEAD)
    past = [(torch.zeros(shape), torch.zeros(shape)) for _ in range(2)]
    _, call = run(kind().eval(), past, 1, 3)
    assert places(held(call, "before")) == places(tensors(past))
    assert {cache.kind for cache in call.analysis.caches} == {CacheKind.WRITTEN}
    assert {cache.sequence_dim for cache in call.analysis.caches} == {2}
    assert all(cache.window is (kind is hidden.Rolled) for cache in call.analysis.caches)
    assert call.analysis.phase is Phase.DECODE


def test_a_cache_in_buffers_of_the_module_is_a_cache_and_no_buffer() -> None:
    model = hidden.InBuffers().eval()
    _, call = run(model, None, 1, 3)
    assert places(held(call, "before")) == places(model.buffers())
    roles = [facts_of(node).role for node in call.gm.graph.find_nodes(op="placeholder")]
    assert roles.count(Role.KV_CACHE) == 4
    assert Role.BUFFER not in roles


def test_a_cache_chosen_element_by_element_is_found() -> None:
    shape = (1, hidden.HEADS, hidden.WINDOW, hidden.HEAD)
    past = [(torch.zeros(shape), torch.zeros(shape)) for _ in range(2)]
    kept, call = run(hidden.Chosen().eval(), past, 1, 3)
    assert places(held(call, "before")) == places(tensors(past))
    assert places(held(call, "after")) == places(tensors(kept))


class CrossDecoder(nn.Module):
    """Attends over keys and values that another graph made once."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(hidden.VOCAB, hidden.WIDTH)
        self.query = nn.Linear(hidden.WIDTH, hidden.WIDTH)
        self.head = nn.Linear(hidden.WIDTH, hidden.VOCAB)

    def forward(self, ids: Tensor, key: Tensor, value: Tensor) -> Tensor:
        mixed = F.scaled_dot_product_attention(self.query(self.embed(ids)), key, value)
        return self.head(mixed)


def look(function: Any, *inputs: Any) -> Understood:
    compiled, calls = understand(function)
    with torch.no_grad():
        compiled(*inputs)
    (call,) = calls
    return call


def test_keys_and_values_that_are_only_read_are_a_cache() -> None:
    key, value = torch.randn(1, 6, hidden.WIDTH), torch.randn(1, 6, hidden.WIDTH)
    call = look(CrossDecoder(), torch.tensor([[1]]), key, value)
    assert places(held(call, "before")) == places([key, value])
    assert {cache.kind for cache in call.analysis.caches} == {CacheKind.READ}
    assert call.analysis.phase is Phase.DECODE


class Negatives:
    """Things that look a little like a cache, and are none."""

    @staticmethod
    def memory_read_as_both(ids: Tensor, memory: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(ids @ torch.eye(4), memory, memory)

    @staticmethod
    def cat_that_no_attention_reads(past: Tensor, new: Tensor) -> Tensor:
        return torch.cat([past, new @ torch.eye(4)], 1)

    @staticmethod
    def all_three_are_inputs(query: Tensor, key: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, key * 2)

    @staticmethod
    def projected_hidden_states_are_returned(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        states = (hidden @ weight).tanh()
        query, key, value = (states @ weight, states @ (weight + 1), states @ (weight - 1))
        return F.scaled_dot_product_attention(query, key, value), states

    @staticmethod
    def keys_alone_are_returned(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        key = hidden @ weight
        return F.scaled_dot_product_attention(hidden @ weight.mT, key, hidden @ (weight + 1)), key

    @staticmethod
    def recurrent_state(state: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.cat([state[:, 1:], new], 1)
        mixed = (state * 0.5).sum(1, keepdim=True) @ torch.eye(4)
        return F.scaled_dot_product_attention(
            mixed @ torch.ones(4, 4), mixed @ torch.eye(4), mixed @ torch.eye(4)
        ), state


@pytest.mark.parametrize("name", [name for name in vars(Negatives) if not name.startswith("_")])
def test_is_no_cache(name: str) -> None:
    call = look(getattr(Negatives, name), torch.randn(1, 4, 4), torch.randn(1, 4, 4))
    assert call.analysis.caches == ()


class Prefixed(nn.Module):
    """Learned keys and values before the real ones, as in prefix tuning; nothing is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.prefix = nn.Parameter(torch.randn(2, 1, 3, 4))
        self.project = nn.Linear(4, 12)

    def forward(self, states: Tensor) -> Tensor:
        query, key, value = self.project(states).split(4, -1)
        key, value = (torch.cat([self.prefix[i], part], 1) for i, part in enumerate((key, value)))
        return F.scaled_dot_product_attention(query, key, value)


class LearnedMemory(nn.Module):
    """Attention over parameters: the model's own, call after call."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.Parameter(torch.randn(2, 1, 3, 4))
        self.project = nn.Linear(4, 4)

    def forward(self, states: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(self.project(states), self.memory[0], self.memory[1])


@pytest.mark.parametrize("model", [Prefixed(), LearnedMemory()], ids=["prefix", "memory"])
def test_learned_keys_and_values_are_weights_and_no_cache(model: nn.Module) -> None:
    assert look(model, torch.randn(1, 5, 4)).analysis.caches == ()


def test_what_training_saves_for_backward_is_no_cache() -> None:
    model = hidden.ListOfPairs()
    compiled, calls = understand(lambda ids: model(ids, None, torch.tensor(0))[0])
    compiled(torch.arange(5).view(1, -1)).sum().backward()
    forward, backward = calls
    assert forward.analysis.caches == backward.analysis.caches == ()
    assert forward.analysis.phase is Phase.TRAINING_FORWARD
    assert backward.analysis.phase is Phase.TRAINING_BACKWARD
