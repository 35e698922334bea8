"""A graph that is spread over two daemons and cut around an operator that only the client has."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import dynamo_genie
from tests.integration.compare import read, same
from tests.integration.fleets.fleets import Fleet, fleet_of

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.environ.get("GENIE_TEST_BACKEND", "genie") != "genie", reason="about daemons"),
    pytest.mark.filterwarnings("ignore::dynamo_genie.errors.ClientOperatorWarning"),
]


@torch.library.custom_op("genie_fleet::own", mutates_args=())
def own(x: Tensor) -> Tensor:
    return x * 0.5 + x.sum()


own.register_fake(torch.empty_like)
own.register_autograd(lambda ctx, grad: own(grad), setup_context=lambda ctx, inputs, output: None)


class Model(nn.Module):
    """Layers with the client's operator between the halves; a growing cache on either side of it."""

    def __init__(self, n_layers: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(n_layers))

    def forward(self, x: Tensor, early: Tensor, late: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        for layer in self.layers[: len(self.layers) // 2]:
            x = layer(x).relu()
        early = torch.cat([early, x])
        x = torch.ops.genie_fleet.own(x + early.sum(0))
        for layer in self.layers[len(self.layers) // 2 :]:
            x = layer(x).relu()
        late = torch.cat([late, x])
        return x + late.sum(0), early, late


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with fleet_of("8MiB", "8MiB") as found:
        yield found


def test_both_daemons_and_the_client_take_their_parts(fleet: Fleet) -> None:
    torch.manual_seed(0)
    model = Model(10, 512)  # 10 MiB: too much for one daemon
    outcomes = []
    for call in (torch.compile(model, backend="aot_eager"), fleet.compile(model)):
        with torch.no_grad():
            state = torch.randn(1, 512, generator=torch.Generator().manual_seed(0)), *torch.zeros(2, 2, 512)
            for _ in range(3):
                dynamo_genie.reset_stats()
                state = call(*state)
        outcomes.append(read(state))
    same(outcomes[1], outcomes[0])
    total = dynamo_genie.stats()["total"]
    assert total["client_calls"] == 1
    assert total["sent"]["weight"] == total["sent"]["kv_cache"] == 0
    assert total["received_total"] < 512 * 4 + 1000 + total["received"]["output"]
    held = [state.memory_used for state in fleet.inspections()]
    assert min(held) > 1 << 20, held


def test_training_goes_back_through_the_cut(fleet: Fleet) -> None:
    torch.manual_seed(0)
    model, gradients = Model(6, 64), []
    scattered = fleet.compile(model, placement="blind", placement_seed=1)
    for call in (torch.compile(model, backend="aot_eager"), scattered):
        model.zero_grad()
        call(torch.ones(1, 64), *torch.ones(2, 2, 64))[0].sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    same(read(gradients[1]), gradients[0])
    assert dynamo_genie.stats()["client_operators"]
    assert all(fleet.traffic().peer_sent.values())
