"""Training steps of a model, and the same steps of its copy on the device: equal losses, and what a step moves."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import dynamo_genie
from dynamo_genie.bench.generation import total
from dynamo_genie.bench.report import Say

RATE = 1e-4
DEVICE = "remote_accelerator:0"


class TrainingSteps:
    """A model, its optimizer, and one batch that it sees again and again."""

    def __init__(self, model: Any, call: Callable[..., Any], ids: Tensor) -> None:
        """Train the parameters of `model`; `call` is it, or what was compiled of it."""
        self._call = call
        self._ids = ids
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, foreach=True)

    def take(self) -> float:
        """Forward, backward, update; the step ends when the program has read its loss."""
        self._optimizer.zero_grad()
        loss = self._call(input_ids=self._ids, labels=self._ids).loss
        loss.backward()
        self._optimizer.step()
        return float(loss.item())


@dataclass(frozen=True)
class TrainingComparison:
    """What a comparison of training on the CPU and on the device found.

    Attributes:
        local_losses: Of each step, of eager PyTorch in this process.
        remote_losses: The same of compiled code on the device.
        last_step_bytes: What the last step moved, by direction and tensor class.
        last_step_s: How long it took.
        model_nbytes: Of all parameters.
    """

    local_losses: list[float]
    remote_losses: list[float]
    last_step_bytes: dict[str, dict[str, int]]
    last_step_s: float
    model_nbytes: int

    @property
    def losses_equal(self) -> bool:
        """Whether they are, bit for bit."""
        return self.local_losses == self.remote_losses


def compare_training(model: Any, ids: Tensor, steps: int, options: Mapping[str, Any], say: Say) -> TrainingComparison:
    """Train a model here, eagerly, and its copy on the device, compiled.

    Args:
        model: A model with a loss, whose passes draw no random numbers.
        ids: Tokens, of shape [batch, length].
        steps: How many; the first one compiles.
        options: Options of the backend.
        say: Told of each step.
    """
    dynamo_genie.register_device()
    there = copy.deepcopy(model).to(DEVICE)
    here = TrainingSteps(model, model, ids)
    remote = TrainingSteps(there, torch.compile(there, backend="genie", options=dict(options)), ids.to(DEVICE))
    losses: dict[str, list[float]] = {"local": [], "remote": []}
    before, seconds = total(), 0.0
    for number in range(1, steps + 1):
        losses["local"].append(here.take())
        before, began = total(), time.perf_counter()
        losses["remote"].append(remote.take())
        seconds = time.perf_counter() - began
        say(f"step {number} of {steps}: loss {losses['remote'][-1]:.6f}, {seconds:.2f} s")
    after = total()
    moved = {way: {name: n - before[way][name] for name, n in after[way].items()} for way in ("sent", "received")}
    nbytes = sum(parameter.nbytes for parameter in model.parameters())
    return TrainingComparison(losses["local"], losses["remote"], moved, seconds, nbytes)
