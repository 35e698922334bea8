"""The model that demo and benchmarks run: a GPT-2 of any size with seeded random weights; nothing is downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from dynamo_genie.errors import GenieError

_SPREAD = 0.25
"""Standard deviation of the narrowest model's weights; see `Gpt2Shape.spread`."""


@dataclass(frozen=True)
class Gpt2Shape:
    """The size of a GPT-2; the defaults are those of the smallest published one, with 124 million parameters."""

    layers: int = 12
    embd: int = 768
    heads: int = 12
    vocab: int = 50_257
    positions: int = 1024

    @property
    def spread(self) -> float:
        """Standard deviation of the weights: wide enough that greedy decoding does not settle on one token."""
        return float(_SPREAD * (32 / self.embd) ** 0.5)

    def __post_init__(self) -> None:
        if min(self.layers, self.embd, self.heads, self.vocab - 1, self.positions) < 1:
            raise GenieError(f"every size of the model must be positive, and the vocabulary larger than 1: {self}")
        if self.embd % self.heads:
            raise GenieError(f"--embd {self.embd} must be a multiple of --heads {self.heads}")


def build_gpt2(shape: Gpt2Shape, seed: int = 0) -> Any:
    """Return a GPT-2 in evaluation mode whose `generate()` stops at the number of tokens only.

    Raises:
        GenieError: transformers is not installed.
    """
    config = gpt2_config(shape)
    from transformers import GPT2LMHeadModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(config).eval()
    model.generation_config.eos_token_id = shape.vocab  # looked for at each step, as always, and never found
    return model


def gpt2_config(shape: Gpt2Shape) -> Any:
    """Return the configuration of a GPT-2 of this size.

    Raises:
        GenieError: transformers is not installed.
    """
    try:
        from transformers import GPT2Config
    except ImportError as error:
        raise GenieError(f"transformers is missing ({error}); pip install 'dynamo_genie[demo]'") from None
    return GPT2Config(
        n_layer=shape.layers, n_embd=shape.embd, n_head=shape.heads, vocab_size=shape.vocab,
        n_positions=shape.positions, initializer_range=shape.spread, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip


def random_prompt(shape: Gpt2Shape, length: int, seed: int = 1) -> torch.Tensor:
    """Return token ids of shape [1, length]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, shape.vocab, (1, length), generator=generator)


def parameter_nbytes(model: torch.nn.Module) -> int:
    """Return the bytes of all parameters, tied ones once."""
    return sum(parameter.nbytes for parameter in model.parameters())
