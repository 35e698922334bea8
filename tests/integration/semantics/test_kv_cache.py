"""KV caches made of results: crop, reorder, repeat and branches behave as on ordinary tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from tests.integration.compare import same
from tests.integration.conftest import Compile
from tests.integration.models import make_model, token_prompt

PROMPT = token_prompt(batch=2, length=7).inputs["input_ids"]


def _tokens(*ids: int) -> Tensor:
    return torch.tensor([list(ids), list(reversed(ids))])


class Decoder:
    """One model behind one way to call it; `step` feeds tokens and returns the logits of all of them."""

    def __init__(self, model: nn.Module, call: Callable[..., Any]) -> None:
        self.config = model.config
        self.call = call

    def prefill(self) -> DynamicCache:
        cache = DynamicCache(config=self.config)
        self.step(PROMPT, cache)
        return cache

    def step(self, ids: Tensor, cache: DynamicCache) -> Tensor:
        return self.call(input_ids=ids, past_key_values=cache, use_cache=True).logits


def _contents(cache: DynamicCache) -> list[tuple[Tensor, Tensor]]:
    return [(layer.keys, layer.values) for layer in cache.layers]


@pytest.fixture
def decoders(compiled: Compile) -> tuple[Decoder, Decoder]:
    """Eager first, compiled second."""
    model = make_model("llama", num_hidden_layers=1)
    return Decoder(model, model), Decoder(model, compiled(model))


def assert_equal(decoders: tuple[Decoder, Decoder], story: Callable[[Decoder], Any]) -> None:
    with torch.no_grad():
        expected, actual = (story(decoder) for decoder in decoders)
        same(actual, expected)


def test_cache_contents_equal_eager(decoders: tuple[Decoder, Decoder]) -> None:
    def story(decoder: Decoder) -> Any:
        cache = decoder.prefill()
        logits = decoder.step(_tokens(5), cache)
        return logits, _contents(cache), cache.get_seq_length()

    assert_equal(decoders, story)


def test_continuation_after_crop_equals_eager(decoders: tuple[Decoder, Decoder]) -> None:
    def story(decoder: Decoder) -> Any:
        cache = decoder.prefill()
        decoder.step(_tokens(5), cache)
        rejected = decoder.step(_tokens(6), cache)
        length = cache.get_seq_length()
        cache.crop(-2)
        assert cache.get_seq_length() == length - 2
        return rejected, decoder.step(_tokens(8), cache), decoder.step(_tokens(9), cache), _contents(cache)

    assert_equal(decoders, story)


def test_crop_leaves_the_tensors_it_was_cut_from_alone(decoders: tuple[Decoder, Decoder]) -> None:
    def story(decoder: Decoder) -> Any:
        cache = decoder.prefill()
        before = _contents(cache)
        cache.crop(-3)
        decoder.step(_tokens(4), cache)
        return before, _contents(cache)

    assert_equal(decoders, story)


def test_continuation_after_reorder_equals_eager(decoders: tuple[Decoder, Decoder]) -> None:
    def story(decoder: Decoder) -> Any:
        cache = decoder.prefill()
        results = []
        for order in ([1, 0], [0, 0], [1, 1]):
            cache.reorder_cache(torch.tensor(order))
            results.append(decoder.step(_tokens(5), cache))
        return results, _contents(cache)

    assert_equal(decoders, story)


def test_repeated_and_selected_batch_equals_eager(decoders: tuple[Decoder, Decoder]) -> None:
    def story(decoder: Decoder) -> Any:
        cache = decoder.prefill()
        cache.batch_repeat_interleave(2)
        wide = decoder.step(torch.tensor([[3], [4], [5], [6]]), cache)
        cache.batch_select_indices(torch.tensor([3, 0]))
        return wide, decoder.step(_tokens(7), cache)

    assert_equal(decoders, story)


def test_two_continuations_of_a_deepcopied_cache_both_stay_right(decoders: tuple[Decoder, Decoder]) -> None:
    def story(decoder: Decoder) -> Any:
        first = decoder.prefill()
        second = copy.deepcopy(first)
        results = []
        for left, right in ((5, 9), (6, 8), (7, 3)):
            results += [decoder.step(_tokens(left), first), decoder.step(_tokens(right), second)]
        return results, _contents(first), _contents(second)

    assert_equal(decoders, story)


def test_two_continuations_of_one_cache_both_stay_right(decoders: tuple[Decoder, Decoder]) -> None:
    def fork(cache: DynamicCache) -> DynamicCache:
        """A second cache around the very same tensors."""
        branch = copy.copy(cache)
        branch.layers = [copy.copy(layer) for layer in cache.layers]
        return branch

    def story(decoder: Decoder) -> Any:
        root = decoder.prefill()
        root_before = _contents(root)
        first, second = fork(root), fork(root)
        results = []
        for left, right in ((5, 9), (6, 8), (7, 3)):
            results += [decoder.step(_tokens(left), first), decoder.step(_tokens(right), second)]
        assert root.get_seq_length() == PROMPT.shape[1]
        return results, root_before, _contents(first), _contents(second)

    assert_equal(decoders, story)


def test_old_cache_tensors_stay_readable_after_more_steps(decoders: tuple[Decoder, Decoder]) -> None:
    def story(decoder: Decoder) -> Any:
        cache = decoder.prefill()
        kept = []
        for token in (5, 6, 7):
            kept.append(_contents(cache))
            decoder.step(_tokens(token), cache)
        return kept

    assert_equal(decoders, story)


def test_cache_written_by_the_user_is_used(decoders: tuple[Decoder, Decoder]) -> None:
    def story(decoder: Decoder) -> Any:
        cache = decoder.prefill()
        cache.layers[0].values[:, :, 2].zero_()
        return decoder.step(_tokens(5), cache)

    assert_equal(decoders, story)


def test_cache_saved_by_the_user_and_restored_is_used(decoders: tuple[Decoder, Decoder]) -> None:
    def story(decoder: Decoder) -> Any:
        cache = decoder.prefill()
        saved = [(k.clone(), v.clone()) for k, v in _contents(cache)]
        decoder.step(_tokens(5), cache)
        for layer, (keys, values) in zip(cache.layers, saved, strict=True):
            layer.keys, layer.values = keys, values
        return decoder.step(_tokens(6), cache)

    assert_equal(decoders, story)


def test_appending_by_hand_in_a_compiled_function_branches(compiled: Compile) -> None:
    def append(past: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
        present = torch.cat([past, new], dim=-2)
        return present, present.sum(-2)

    outcomes = []
    for way in (append, compiled(append)):
        root, _ = way(torch.zeros(1, 2, 0, 4), torch.ones(1, 2, 3, 4))
        left, left_sum = way(root, torch.full((1, 2, 1, 4), 2.0))
        right, right_sum = way(root, torch.full((1, 2, 1, 4), 3.0))
        longer, _ = way(left, torch.full((1, 2, 1, 4), 4.0))
        root.add_(10)
        outcomes.append((root, left, right, longer, left_sum, right_sum))
    same(outcomes[1], outcomes[0])


def test_static_cache_used_twice_from_the_start_equals_eager(compiled: Compile) -> None:
    model = make_model("gpt2")
    remote = copy.deepcopy(model)
    remote.forward = compiled(remote.forward)
    for seed in (1, 2):
        prompt = token_prompt(length=6, seed=seed).inputs
        options = dict(max_new_tokens=5, do_sample=False, cache_implementation="static")
        assert torch.equal(remote.generate(**prompt, **options), model.generate(**prompt, **options))
