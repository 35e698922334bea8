"""Results where a program captures graphs by itself: as inputs of `make_fx` and `torch.export`, and made fake."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from tests.integration.compare import same
from tests.integration.conftest import Compile


@pytest.fixture
def result(compiled: Compile) -> Tensor:
    return compiled(lambda x: x * 2)(torch.arange(6.0).view(2, 3))


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_make_fx(result: Tensor, mode: str) -> None:
    graph = make_fx(lambda x: x.sin() + x.shape[0], tracing_mode=mode)(result)
    same(graph(result), (torch.arange(6.0).view(2, 3) * 2).sin() + 2)


@pytest.mark.parametrize("strict", [True, False])
def test_export(result: Tensor, strict: bool) -> None:
    model = nn.Linear(3, 3)
    for _ in range(2):
        exported = torch.export.export(model, (result,), strict=strict).module()
        same(exported(result), model(result))
        same(exported(torch.ones(2, 3)), model(torch.ones(2, 3)))
        model.weight = nn.Parameter(result.t() @ result)


def test_a_fake_has_the_layout_of_a_result(result: Tensor) -> None:
    for view in (result, result.t(), result[:, 1:]):
        fake = FakeTensorMode().from_tensor(view)
        assert (fake.shape, fake.stride(), fake.dtype) == (view.shape, view.stride(), view.dtype)
    same(result, torch.arange(6.0).view(2, 3) * 2)
