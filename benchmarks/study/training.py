"""Training steps as the work of a client: a GPT-2 with seeded random weights, AdamW, one batch again and again."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from dynamo_genie.bench.study.orders import Setup
from dynamo_genie.bench.study.seeded import build_seeded
from dynamo_genie.bench.study.training_modes import TRAINING_MODES
from dynamo_genie.bench.study.wrapped import OperatorCount, wrap_parameters
from dynamo_genie.bench.training import DEVICE, TrainingSteps
from dynamo_genie.errors import GenieError
from dynamo_genie.tensors import TORCH_DTYPES

FLOOR = "aot_eager"


@dataclass(frozen=True)
class TrainedShape:
    """Sizes of a GPT-2."""

    layers: int
    embd: int
    heads: int
    vocab: int


SHAPES = MappingProxyType(
    {
        "gpt2": TrainedShape(12, 768, 12, 50_257),
        "gpt2-96": TrainedShape(12, 96, 4, 1000),
        "tiny-gpt2": TrainedShape(2, 64, 4, 500),
        "tiny-gpt2-96": TrainedShape(1, 96, 4, 500),
    }
)
"""By the name that rows have: the published one, a narrow one whose steps are mostly overhead, and two for tests."""


class Training:
    """Steps of training; a repeat goes on where the last one ended.

    Attributes:
        answer: The losses of this repeat, as the bits of their numbers.
        operators: How many operators eager code ran in its second step, which is never measured; 0 of compiled code.
    """

    def __init__(self, steps: TrainingSteps, *, count: bool) -> None:
        self._steps = steps
        self._taken = 0
        self._count = count
        self.answer: list[int] = []
        self.operators = 0

    def begin(self) -> None:
        """Forget the losses of the last repeat."""
        self.answer = []

    def step(self, phase: str) -> None:
        """Take a step of training."""
        counter = OperatorCount() if self._count and self._taken == 1 else None
        with counter or nullcontext():
            loss = self._steps.take()
        self._taken += 1
        self.operators = counter.count if counter else self.operators
        self.answer += torch.tensor([loss]).view(torch.int32).tolist()


def training_of(setup: Setup) -> tuple[Training, int]:
    """Return the work that an order asks for, and how many parameters it trains."""
    mode = TRAINING_MODES[setup.mode]
    model = build_trained(setup)
    generator = torch.Generator().manual_seed(setup.seed + 1)
    ids = torch.randint(0, model.config.vocab_size, (setup.batch, setup.prompt), generator=generator).to(setup.device)
    options: dict[str, Any] = {"progress": False, **setup.options}
    if mode.resident:
        import dynamo_genie

        dynamo_genie.register_device()
        dynamo_genie.connect(**options)
        model, ids = model.to(DEVICE), ids.to(DEVICE)
    elif mode.name == "wrapped":
        wrap_parameters(model)
    count = setup.task == "train-eager" and mode.name == "local"
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Training(TrainingSteps(model, _called(model, setup, options), ids), count=count), parameters


def build_trained(setup: Setup) -> Any:
    """Return a model in training mode, without dropout, where the order has models.

    Raises:
        GenieError: There is none of this name.
    """
    from transformers import GPT2Config

    if setup.model not in SHAPES:
        raise GenieError(f"no model {setup.model!r} to train; there are {', '.join(SHAPES)}")
    shape, dtype = SHAPES[setup.model], TORCH_DTYPES[setup.dtype]
    config = GPT2Config(
        n_layer=shape.layers, n_embd=shape.embd, n_head=shape.heads, vocab_size=shape.vocab, use_cache=False,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip  # attention is scaled_dot_product_attention unless it is told otherwise
    return build_seeded("GPT2LMHeadModel", config, dtype=dtype, device=setup.device, seed=setup.seed).train()


def _called(model: Any, setup: Setup, options: dict[str, Any]) -> Any:
    """Return what runs the forward pass: compiled as the mode says, or the model itself."""
    if setup.task == "train-eager":
        return model
    if TRAINING_MODES[setup.mode].remote:
        return torch.compile(model, backend="genie", options=options)
    return torch.compile(model, backend=FLOOR)
