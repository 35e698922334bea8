"""A model that generates while something happens at chosen steps, and what it generates undisturbed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from tests.integration.models import make_model, token_prompt

STEPS = 32

WAYS = {
    "greedy": {},
    "sampled": {"do_sample": True},
    "static": {"cache_implementation": "static", "disable_compile": True},
    "static-sampled": {"cache_implementation": "static", "disable_compile": True, "do_sample": True},
    "beams": {"num_beams": 3},
}
"""Ways to generate."""


class Decoding:
    """A tiny model, its `forward` compiled, that generates `STEPS` tokens by one way of choosing them.

    Attributes:
        expected: What the model generates by itself.
        steps: How many steps were begun.
        at: At which steps `happens` is called, before they begin, counted from 1.
    """

    def __init__(self, name: str, compile_: Callable[[Any], Any], **way: Any) -> None:
        model = make_model(name)
        self._way = way
        self.expected = self._generate(model)
        self._model = copy.deepcopy(model)
        forward = compile_(self._model.forward)
        self.steps = 0
        self.at: Collection[int] = ()
        self.happens: Callable[[], object] = lambda: None

        def disturbed(*args: Any, **kwargs: Any) -> Any:
            self.steps += 1
            if self.steps in self.at:
                self.happens()
            return forward(*args, **kwargs)

        self._model.forward = wraps(self._model.forward)(disturbed)  # `generate` reads what `forward` takes

    def run(self) -> Tensor:
        """Generate, disturbed."""
        self.steps = 0
        return self._generate(self._model)

    def _generate(self, model: Any) -> Tensor:
        prompt = token_prompt()
        if model.config.is_encoder_decoder:  # with random weights it would say one token again and again
            prompt.options["no_repeat_ngram_size"] = 1
        options = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False, **prompt.options, **self._way}
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(7)
            return model.generate(**prompt.inputs, **options)  # type: ignore[no-any-return]
