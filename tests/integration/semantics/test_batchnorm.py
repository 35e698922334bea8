"""Running statistics of BatchNorm: buffers that a call in train mode writes and the next call reads."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from tests.integration.compare import same
from tests.integration.conftest import Compile


def _model() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())


def _batch(seed: int) -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * (seed + 1)


def test_running_statistics_are_right_locally_after_each_call(compiled: Compile) -> None:
    eager = _model().train()
    remote = copy.deepcopy(eager)
    call = compiled(remote)
    with torch.no_grad():
        for step in range(3):
            same(call(_batch(step)), eager(_batch(step)))
            same(dict(remote.named_buffers()), dict(eager.named_buffers()))
    assert remote[1].num_batches_tracked.item() == 3


def test_eval_after_train_uses_the_updated_statistics(compiled: Compile) -> None:
    eager = _model()
    remote = copy.deepcopy(eager)
    call = compiled(remote)
    with torch.no_grad():
        for step in range(3):
            for train in (True, False):
                eager.train(train)
                remote.train(train)
                same(call(_batch(step)), eager(_batch(step)))
    same(remote.state_dict(), eager.state_dict())


def test_statistics_reset_by_the_user_are_used(compiled: Compile) -> None:
    eager = _model().train()
    remote = copy.deepcopy(eager)
    call = compiled(remote)
    with torch.no_grad():
        for step in range(3):
            for model in (eager, remote):
                model[1].reset_running_stats()
            same(call(_batch(step)), eager(_batch(step)))
            same(remote.state_dict(), eager.state_dict())


def test_training_with_batchnorm_equals_eager(compiled: Compile) -> None:
    eager = _model().train()
    remote = copy.deepcopy(eager)
    call = compiled(remote)
    for step in range(2):
        for model, forward in ((eager, eager), (remote, call)):
            model.zero_grad()
            forward(_batch(step)).square().mean().backward()
            torch.optim.SGD(model.parameters(), lr=0.1).step()
        same({n: p.grad for n, p in remote.named_parameters()}, {n: p.grad for n, p in eager.named_parameters()})
        same(remote.state_dict(), eager.state_dict())


def test_state_dict_saved_between_calls_is_a_snapshot_of_eager(compiled: Compile) -> None:
    eager = _model().train()
    remote = copy.deepcopy(eager)
    call = compiled(remote)
    with torch.no_grad():
        call(_batch(0))
        eager(_batch(0))
        saved = copy.deepcopy(remote.state_dict())
        same(saved, eager.state_dict())
        remote.load_state_dict(saved)
        same(call(_batch(1)), eager(_batch(1)))
