"""A model that generates while something happens at chosen steps, and what it generates undisturbed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from functools import wraps
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from dynamo_genie.bench.trust.tiny_models import make_tiny, token_prompt

STEPS = 32

WAYS: MappingProxyType[str, MappingProxyType[str, Any]] = MappingProxyType(
    {
        "greedy": MappingProxyType({}),
        "sampled": MappingProxyType({"do_sample": True}),
        "static": MappingProxyType({"cache_implementation": "static", "disable_compile": True}),
        "static-sampled": MappingProxyType(
            {"cache_implementation": "static", "disable_compile": True, "do_sample": True}
        ),
        "beams": MappingProxyType({"num_beams": 3}),
    }
)
"""Ways to generate."""


class DisturbedGeneration:
    """A tiny model, its `forward` compiled, that generates `STEPS` tokens by one way of choosing them.

    Attributes:
        expected: What the model generates by itself.
        steps: How many steps were begun.
        at: At which steps `happens` is called, before they begin, counted from 1.
        on_progress: Called when a token was read, after each step; where it is None, none is read before the end.
    """

    def __init__(self, name: str, compile_: Callable[[Any], Any], **way: Any) -> None:
        model = make_tiny(name)
        self._way = way
        self.expected = self._generate(model)
        self._model = copy.deepcopy(model)
        forward = compile_(self._model.forward)
        self.steps = 0
        self.at: Collection[int] = ()
        self.happens: Callable[[], object] = lambda: None
        self.on_progress: Callable[[], object] | None = None

        def disturbed(*args: Any, **kwargs: Any) -> Any:
            self.steps += 1
            if self.steps in self.at:
                self.happens()
            return forward(*args, **kwargs)

        self._model.forward = wraps(self._model.forward)(disturbed)  # `generate` reads what `forward` takes

    def run(self) -> Tensor:
        """Generate, disturbed."""
        self.steps = 0
        return self._generate(self._model, self.on_progress)

    def _generate(self, model: Any, on_token: Callable[[], object] | None = None) -> Tensor:
        prompt = token_prompt()
        if model.config.is_encoder_decoder:  # with random weights it would say one token again and again
            prompt.options["no_repeat_ngram_size"] = 1
        options = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False, **prompt.options, **self._way}
        if on_token is not None:
            options["stopping_criteria"] = StoppingCriteriaList([_TokenReader(on_token)])
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(7)
            return model.generate(**prompt.inputs, **options)  # type: ignore[no-any-return]


class _TokenReader(StoppingCriteria):
    """Reads the last tokens after each step, and stops nothing."""

    def __init__(self, on_token: Callable[[], object]) -> None:
        self._on_token = on_token

    def __call__(self, input_ids: Tensor, scores: Tensor, **others: Any) -> Tensor:
        input_ids[:, -1].tolist()
        self._on_token()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
