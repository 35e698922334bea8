"""Calls of a model that are shared out, and what their answers are compared by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

import dynamo_genie
from dynamo_genie.bench.alternate import seconds_of
from dynamo_genie.bench.pipelines.models import MODELS
from dynamo_genie.bench.pipelines.orders import Order


class PromptWork:
    """A prompt into a fresh cache, of which the logits of the last token are read; then tokens, one by one."""

    def __init__(self, config: Any, rows: int, seed: int) -> None:
        """Draw a prompt of so many tokens."""
        generator = torch.Generator().manual_seed(seed + 1)
        self._ids = torch.randint(1, config.vocab_size, (1, rows), generator=generator)
        self._config = config

    def call(self, model: Callable[..., Any]) -> str:
        """Feed the prompt."""
        return digest(self._feed(model, self._fresh(), self._ids))

    def begin(self, model: Callable[..., Any]) -> list[str]:
        """Feed the prompt and keep its cache; return digests of that."""
        self._cache = self._fresh()
        self._logits = self._feed(model, self._cache, self._ids)
        return cache_digests(self._cache)

    def decode(self, model: Callable[..., Any], tokens: int) -> tuple[list[float], list[str]]:
        """Feed greedy tokens to the cache that was begun; return seconds of each, and all of them."""
        times, found = [], []
        for _ in range(tokens):
            token = int(self._logits[0, -1].argmax())
            times.append(seconds_of(partial(self._next, model, token)))
            found.append(str(token))
        return times, found

    def end(self) -> list[str]:
        """Return digests of the cache that was begun, with all tokens since."""
        return cache_digests(self._cache)

    def _next(self, model: Callable[..., Any], token: int) -> None:
        self._logits = self._feed(model, self._cache, torch.tensor([[token]]))

    def _fresh(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self._config)

    @staticmethod
    def _feed(model: Callable[..., Any], cache: Any, ids: Tensor) -> Tensor:
        with torch.no_grad():
            logits = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        return read(logits)


class ImageWork:
    """A batch of images, of which all logits are read."""

    def __init__(self, size: int, rows: int, seed: int, dtype: torch.dtype) -> None:
        """Draw so many images of this width and height."""
        generator = torch.Generator().manual_seed(seed + 2)
        self._pixels = torch.randn(rows, 3, size, size, generator=generator).to(dtype)

    def call(self, model: Callable[..., Any]) -> str:
        """Classify the images."""
        with torch.no_grad():
            return digest(read(model(self._pixels).logits))


def work_of(order: Order, config: Any, dtype: torch.dtype) -> PromptWork | ImageWork:
    """Return the work that an order asks for."""
    if order.phase == "prefill":
        return PromptWork(config, order.rows, order.seed)
    return ImageWork(MODELS[order.model].image, order.rows, order.seed, dtype)


def read(tensor: Tensor) -> Tensor:
    """Return the values of a tensor that may be remote."""
    return dynamo_genie.to_local(tensor)  # type: ignore[no-any-return]


def digest(*tensors: Tensor) -> str:
    """Return a digest of every bit of some tensors, and of their shapes."""
    found = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        found.update(repr((tuple(tensor.shape), tensor.dtype)).encode())
        found.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def cache_digests(cache: Any) -> list[str]:
    """Return digests of keys and values, layer by layer."""
    return [digest(read(layer.keys), read(layer.values)) for layer in cache.layers]


def first_difference(right: Sequence[str], mine: Sequence[str]) -> str:
    """Say which answer is not the right one; empty where all are."""
    if len(right) != len(mine):
        return f"{len(mine)} answers, and {len(right)} with one daemon"
    for position, (theirs, own) in enumerate(zip(right, mine, strict=True)):
        if theirs != own:
            return f"answer {position} of {len(right)} is not that of one daemon"
    return ""
