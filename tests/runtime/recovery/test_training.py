"""A worker that dies at each message of a training run, before it took that or after: the run notices nothing."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynamo_genie.errors import NotRecoverable
from dynamo_genie.runtime.recovery.saving import SMALL_NBYTES
from tests.in_process import Workers, connections_in_process

OPENING = 2
"""The first messages open the session: there is nothing to recover yet."""


class Training:
    """Two steps of a model with running statistics and dropout, by an optimizer on the client; results stay remote."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 4))
        self.state = copy.deepcopy(self.model.state_dict())
        self.compiled = self.compile()

    def compile(self) -> Any:
        return torch.compile(self.model, backend="genie")

    def run(self) -> list[Tensor]:
        torch.manual_seed(0)
        self.model.load_state_dict(self.state)
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        kept: list[Tensor] = []
        for _ in range(2):
            out = self.compiled(torch.randn(32, 8))
            loss = nn.functional.cross_entropy(out, torch.randint(0, 4, (32,)))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            kept += [loss.detach(), out.detach()]
        return kept

    def outcome(self, workers: Workers) -> list[Tensor]:
        return self.outcome_through(connections_in_process(workers))

    def outcome_through(self, connections: AbstractContextManager[object]) -> list[Tensor]:
        with connections:
            kept = self.run()
            values = [torch.tensor(value.tolist()) for value in kept]
        return [*values, *(value.clone() for value in self.model.state_dict().values())]


@pytest.fixture(scope="module")
def training() -> Training:
    return Training()


@pytest.mark.parametrize("after", [False, True])
def test_a_death_at_any_message_of_a_training_run_changes_no_bit(training: Training, after: bool) -> None:
    undisturbed = Workers()
    expected = training.outcome(undisturbed)
    for number in range(OPENING + 1, undisturbed.sent + 1):
        workers = Workers()
        workers.dies_at, workers.after = number, after
        found = training.outcome(workers)
        assert workers.died == 1
        for value, right in zip(found, expected, strict=True):
            assert torch.equal(value, right), number


def test_what_depended_on_weights_that_are_gone_is_a_named_error_and_nothing_else_is() -> None:
    model = nn.Linear(4, 300, bias=False)
    workers = Workers()
    with torch.no_grad(), connections_in_process(workers):
        compiled = torch.compile(model, backend="genie")
        x = torch.randn(300, 4)
        large, small = compiled(x), compiled(x[:2])
        expected = model(x[:2]).clone()
        assert large.nbytes > SMALL_NBYTES > small.nbytes
        model.weight.mul_(2)
        assert torch.equal(compiled(x[:1]).clone() + 0, model(x[:1]))
        workers.kill()
        with pytest.raises(NotRecoverable, match="weights that it was computed from have changed since"):
            large.sum().item()
        assert torch.equal(small + torch.zeros(()), expected)
        assert torch.equal(compiled(x) + torch.zeros(()), model(x))
        with pytest.raises(NotRecoverable):
            (large + 1).sum().item()


ENDS = {
    "relu": nn.ReLU(),
    "sigmoid": nn.Sigmoid(),
    "softmax": nn.Softmax(-1),
    "linear": nn.Identity(),
}
KEPT = {
    "mse": nn.functional.mse_loss,
    "smooth_l1": nn.functional.smooth_l1_loss,
    "prediction": lambda y, t: y,
    "first row": lambda y, t: y[0],
    "transposed": lambda y, t: y.t(),
    "second half": lambda y, t: y.chunk(2)[1],
    "diagonal": lambda y, t: y.diagonal(),
    "two of it": lambda y, t: (y.t() + y.t()).t(),
}
"""Results small enough to be saved: of kernels that leave more memory behind them, read by the backward, views."""


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("end", ENDS)
def test_small_results_of_steps_before_survive_though_their_weights_are_gone(end: str, kept: str) -> None:
    torch.compiler.reset()
    torch.manual_seed(0)
    model, target = nn.Sequential(nn.Linear(6, 4), ENDS[end]), torch.rand(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    workers, found, expected = Workers(), [], []
    with connections_in_process(workers):
        compiled = torch.compile(model, backend="genie")
        for _ in range(3):
            x = torch.randn(4, 6)
            with torch.no_grad():
                expected.append(KEPT[kept](model(x), target).clone())
            y = compiled(x)
            found.append(KEPT[kept](y, target).detach())
            optimizer.zero_grad()
            nn.functional.mse_loss(y, target).backward()
            del y
            optimizer.step()
        compiled(x).sum().item()
        workers.kill()
        for value, right in zip(found, expected, strict=True):
            torch.testing.assert_close(torch.tensor(value.tolist()), right)
