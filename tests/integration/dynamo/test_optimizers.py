"""Compiled optimizers: a step of each in `torch.optim` has the bits that it has with `aot_eager`.

PyTorch's own samples of optimizers, in float32, are in `torch_samples/test_optim_db.py`; here they run in bfloat16 by
default. By hand, in both types and with every flag:

    GENIE_TEST_ALL_SAMPLES=1 python -m pytest tests/integration/dynamo/test_optimizers.py -m slow
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.integration.compare import same
from tests.integration.torch_samples.table import ALL

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    name: cls
    for name, cls in vars(torch.optim).items()
    if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer) and cls is not torch.optim.Optimizer
}

FLAGS: list[dict[str, Any]] = [
    {}, {"foreach": True, "capturable": True},
    *([
        {"foreach": True}, {"fused": True}, {"capturable": True}, {"weight_decay": 0.1, "maximize": True},
        {"momentum": 0.9}, {"amsgrad": True}, {"lr": torch.tensor(0.01)},
    ] if ALL else []),
]  # fmt: skip

DTYPES = (torch.float32, torch.bfloat16) if ALL else (torch.bfloat16,)


def takes(cls: type[torch.optim.Optimizer], flags: dict[str, Any]) -> bool:
    return set(flags) <= set(inspect.signature(cls.__init__).parameters)


def step(cls: type[torch.optim.Optimizer], flags: dict[str, Any], dtype: torch.dtype, backend: Any) -> list[Any]:
    """Two steps of an optimizer, compiled as a whole; the parameters and its state then."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    shapes = [(3, 4), (5, 4)] if cls is torch.optim.Muon else [(3, 4), (4,), (5, 2, 2)]
    parameters = [torch.nn.Parameter(torch.randn(shape).to(dtype)) for shape in shapes]
    optimizer = cls(parameters, **{name: v.clone() if isinstance(v, Tensor) else v for name, v in flags.items()})

    def closure() -> Tensor:
        return sum((p.detach().float() ** 2).sum() for p in parameters)  # type: ignore[return-value]

    compiled = torch.compile(optimizer.step, backend=backend)
    for _ in range(2):
        for parameter in parameters:
            gradient = torch.randn(parameter.shape).to(dtype)
            parameter.grad = gradient.to_sparse() if cls is torch.optim.SparseAdam else gradient
        compiled(closure) if cls is torch.optim.LBFGS else compiled()
    state = [sorted(optimizer.state[parameter].items()) for parameter in parameters]
    tensors = [value for items in state for _, value in items if isinstance(value, Tensor)]
    return [*[parameter.detach() for parameter in parameters], *tensors]


def test_a_step_of_adam_has_the_bits_of_aot_eager(backend: Any) -> None:
    arguments = torch.optim.Adam, {}, torch.float32
    same(step(*arguments, backend), step(*arguments, "aot_eager"))


@pytest.mark.slow
@pytest.mark.sweep
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_of_every_optimizer_has_the_bits_of_aot_eager(name: str, backend: Any) -> None:
    cls, walked = OPTIMIZERS[name], 0
    for flags in [flags for flags in FLAGS if takes(cls, flags)]:
        for dtype in DTYPES:
            try:
                expected = step(cls, flags, dtype, "aot_eager")
            except Exception:  # noqa: BLE001, S112  # what the reference cannot do is none of this test's business
                continue
            same(step(cls, flags, dtype, backend), expected)
            walked += 1
    assert walked >= len(DTYPES)  # the defaults at least


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_primitives_that_dynamo_writes_are_taken_apart_as_eager_runs_them(dtype: torch.dtype, backend: Any) -> None:
    def update(x: Tensor, y: Tensor, rate: Tensor) -> list[Tensor]:
        first, second, third = x.clone(), x.clone(), x * 1
        first.addcmul_(y, x, value=0.3)
        second.addcdiv_(y, y + 3, value=-0.7)
        third.add_(y, alpha=rate)
        return [
            first,
            second,
            third,
            torch.ops.prims.fma(x, y, x),
            torch.ops.prims.exp(y.detach()),
        ]

    def run(backend: Any) -> list[Tensor]:
        torch._dynamo.reset()
        torch.manual_seed(0)
        x, y = (torch.randn(3, 4).to(dtype).requires_grad_() for _ in range(2))
        results = torch.compile(update, backend=backend)(x, y, torch.tensor(0.1))
        sum(torch.view_as_real(r).sum() if r.is_complex() else r.sum() for r in results[:4]).backward()
        return [*results, x.grad, y.grad]

    same(run(backend), run("aot_eager"))
