"""Greedy decoding with a Dynamic cache: the prompt, then token by token, each read before the next step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Decoding:
    """A model and the sequence that it is decoding; `begin` comes before the first step."""

    def __init__(self, model: Any, prompt: Tensor) -> None:
        """Take a model of transformers, compiled or not, and token ids of shape [1, length]."""
        self._model = model
        self._prompt = prompt
        self.answer: list[int] = []
        self.operators = 0

    def begin(self) -> None:
        """Start with an empty cache."""
        from transformers import DynamicCache

        self._cache = DynamicCache(config=self._model.config)
        self._next = self._prompt
        self.answer = []

    def step(self, phase: str = "") -> None:
        """Feed the prompt or the last token, append to the cache and read the next token."""
        with torch.no_grad():
            logits = self._model(self._next, past_key_values=self._cache, use_cache=True).logits
        self.answer.append(int(logits[:, -1].argmax().item()))
        self.feed(self.answer[-1])

    def feed(self, token: int) -> None:
        """Let the next step begin with this token."""
        self._next = torch.tensor([[token]], device=self._next.device)
