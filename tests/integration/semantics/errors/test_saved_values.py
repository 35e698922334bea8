"""What a forward saved and somebody wrote to before the backward: the error of eager, and no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.integration.compare import same
from tests.integration.conftest import Compile

Make = Callable[[Callable[..., Any]], "Step"]


@dataclass(frozen=True)
class Step:
    """A forward, and what is written between it and the backward."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    write: Callable[[Any], object]


def _leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, requires_grad=True)


def _model(written: str) -> Make:
    def make(remote: Callable[..., Any]) -> Step:
        model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.BatchNorm1d(3), nn.Linear(3, 2), nn.LayerNorm(2)).eval()
        tensor = dict([*model.named_parameters(), *model.named_buffers()])[written]
        return Step(model, (_leaf(4, 3),), lambda out: tensor.add_(1))

    return make


def _product(change: Callable[[Tensor, Tensor], object], *, transposed: bool = False, weight: bool = False) -> Make:
    def make(remote: Callable[..., Any]) -> Step:
        x, w = remote(torch.randn(3, 3)), _leaf(3, 3)
        written = w if weight else x
        function = (lambda x, w: x.t() @ w.t()) if transposed else (lambda x, w: x @ w)
        args = (x.requires_grad_() if weight else x, w)
        return Step(function, args, lambda out: change(written, out))

    return make


def _result(function: Callable[[Tensor], Any], change: Callable[[Any], object]) -> Make:
    return lambda remote: Step(function, (_leaf(3, 3),), change)


def _square(w: Tensor) -> tuple[Tensor, Tensor]:
    e = w.exp()
    return e.t() @ e, e


def _two_views(w: Tensor) -> tuple[Tensor, Tensor]:
    e = w.exp()
    return e.view(-1), e.t()


def _other(x: Tensor, out: Tensor) -> Tensor:
    return (x + 1).add_(1)


CASES: dict[str, Make] = {
    **{f"parameter or buffer {name}": _model(name) for name in (
        "0.weight", "0.bias", "2.running_mean", "2.running_var", "2.weight", "3.weight", "3.bias", "4.weight", "4.bias",
    )},
    "argument": _product(lambda x, out: x.add_(1)),
    "argument that is saved as a view": _product(lambda x, out: x.add_(1), transposed=True),
    "part of an argument that is saved as a view": _product(lambda x, out: x[0].add_(1), transposed=True),
    "another tensor": _product(_other),
    "weight that is saved as a view": _product(lambda w, out: w.detach().mul_(2), transposed=True, weight=True),
    "result": _result(torch.exp, lambda out: out.add_(1)),
    "result that is saved as a view": _result(_square, lambda out: out[1].add_(1)),
    "result that is not saved": _result(lambda w: w * 2, lambda out: out.add_(1)),
    "view of a result that is saved": _result(_two_views, lambda out: out[0].detach().add_(1)),
}  # fmt: skip


def _outcome(step: Step, call: Callable[..., Any]) -> list[Tensor | None] | str:
    out = call(*step.args)
    with torch.no_grad():
        step.write(out)
    try:
        (out[0] if isinstance(out, tuple) else out).sum().backward()
    except RuntimeError as error:
        return str(error).split("[")[0]
    return [arg.grad for arg in step.args if arg.is_leaf]


@pytest.mark.parametrize("name", CASES)
def test_writing_to_what_is_saved_raises_as_in_eager(name: str, compiled: Compile) -> None:
    make_remote = compiled(lambda x: x * 1)
    outcomes = []
    for remote, way in ((lambda x: x * 1, lambda f: f), (make_remote, compiled)):
        torch.manual_seed(0)
        step = CASES[name](remote)
        outcomes.append(_outcome(step, way(step.function)))
    same(outcomes[1], outcomes[0])


def test_some_cases_raise_and_others_do_not() -> None:
    """The table above shows nothing if eager raises always or never."""
    raised = {name for name, make in CASES.items() if isinstance(_outcome(s := make(lambda x: x * 1), s.function), str)}
    assert {"argument", "weight that is saved as a view", "parameter or buffer 3.weight"} <= raised
    assert not raised & {"another tensor", "result that is not saved", "parameter or buffer 3.bias"}


def test_what_training_programs_write_is_no_error(compiled: Compile) -> None:
    """Optimizer steps, accumulated gradients, averages of weights, a scaled loss: all write between the iterations."""
    models = []
    for way in (lambda f: f, compiled):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.BatchNorm1d(4), nn.Linear(4, 2))
        average, unrelated = [p.detach().clone() for p in model.parameters()], torch.zeros(3)
        call, optimizer = way(model), torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        for _ in range(3):
            losses = [call(torch.randn(4, 3)).square().mean() * 1024 for _ in range(2)]
            with torch.no_grad():
                unrelated.add_(1)
                average[0].add_(1)
            for loss in losses:
                loss.backward()
            with torch.no_grad():
                for p, mean in zip(model.parameters(), average, strict=True):
                    assert p.grad is not None
                    p.grad.div_(1024)
                    mean.lerp_(p, 0.1)
            optimizer.step()
            optimizer.zero_grad()
        models.append((model.state_dict(), average))
    same(models[1], models[0])


def test_a_second_backward_is_checked_too(compiled: Compile) -> None:
    x, w = _leaf(2, 3), _leaf(3, 3)
    loss = compiled(lambda x, w: (x @ w.t()).sum())(x, w)
    loss.backward(retain_graph=True)
    with torch.no_grad():
        w.mul_(2)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"modified by an inplace operation: \[torch.FloatTensor \[3, 3\]\]"):
            loss.backward(retain_graph=True)
