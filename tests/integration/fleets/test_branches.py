"""Branches and loops of a graph that is spread over two daemons, with weights of both inside."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops import while_loop

from tests.integration.compare import read, same
from tests.integration.fleets.fleets import fleet_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Model(nn.Module):
    """Layers, with a branch or a loop between the halves that uses the first weight and the last."""

    def __init__(self, loops: bool) -> None:
        super().__init__()
        self.loops = loops
        self.layers = nn.ModuleList(nn.Linear(512, 512) for _ in range(10))  # 10 MiB: too much for one daemon

    def forward(self, x: Tensor) -> Tensor:
        first, last = self.layers[0].weight, self.layers[-1].weight
        for layer in self.layers[:5]:
            x = layer(x).relu()
        if self.loops:
            x = while_loop(lambda i, a: i < 3, lambda i, a: (i + 1, (a @ last).tanh()), (torch.tensor(0), x @ first))[1]
        else:
            x = torch.cond(x.sum() > 0, lambda x: (x @ first).sin(), lambda x: (x @ last).cos(), (x,))
        for layer in self.layers[5:]:
            x = layer(x).relu()
        return x


def test_branches_and_loops_use_weights_of_both() -> None:
    with fleet_of("8MiB", "8MiB") as fleet, torch.no_grad():
        for loops in (False, True):
            torch.manual_seed(0)
            model, x = Model(loops), torch.randn(2, 512)
            expected = read(torch.compile(model, backend="aot_eager")(x))
            call = fleet.compile(model)
            for _ in range(2):
                same(call(x), expected)
