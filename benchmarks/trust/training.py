"""A few steps of training, during which something happens in chosen phases."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

TRAINING_STEPS = 3
PHASES = 5 * TRAINING_STEPS
"""Before the forward pass, before the loss, before the backward pass, before the optimizer, after it; in each step."""


class DisturbedTraining:
    """A few steps of training, with losses that stay remote.

    Attributes:
        phases: How many phases were begun.
        at: In which phases `happens` is called, counted from 1.
        on_progress: Called when a phase begins, before that.
    """

    def __init__(self, compile_: Callable[[Any], Any]) -> None:
        torch.manual_seed(3)
        self._model = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.GELU(), nn.Dropout(0.2), nn.Linear(32, 8))
        self._begin = copy.deepcopy(self._model.state_dict())
        self._compiled = compile_(self._model)
        self.phases = 0
        self.at: Collection[int] = ()
        self.happens: Callable[[], object] = lambda: None
        self.on_progress: Callable[[], object] | None = None

    def run(self) -> list[Tensor]:
        """Train, from the same beginning each time, and return losses, parameters and buffers."""
        torch.manual_seed(4)
        model = self._model
        model.load_state_dict(self._begin)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        self.phases, losses = 0, []
        for _ in range(TRAINING_STEPS):
            inputs, labels = torch.randn(24, 16), torch.randint(0, 8, (24,))
            self._phase()
            outputs = self._compiled(inputs)
            self._phase()
            loss = nn.functional.cross_entropy(outputs, labels)
            self._phase()
            loss.backward()
            self._phase()
            optimizer.step()
            self._phase()
            optimizer.zero_grad()
            losses.append(loss.detach())
        return [*(loss.clone() + 0 for loss in losses), *(value.clone() for value in model.state_dict().values())]

    def _phase(self) -> None:
        self.phases += 1
        if self.on_progress is not None:
            self.on_progress()
        if self.phases in self.at:
            self.happens()
