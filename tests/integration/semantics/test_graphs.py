"""What Dynamo can hand to a backend: breaks, whole graphs, symbolic sizes, control flow, custom gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed
from torch._higher_order_ops import scan, while_loop

from dynamo_genie.errors import UnsupportedOperator
from tests.integration.compare import assert_like_eager, same
from tests.integration.conftest import Compile


def _graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def test_graph_break_in_the_middle(compiled: Compile) -> None:
    def broken(x: Tensor) -> Tensor:
        y = x.sin()
        torch._dynamo.graph_break()
        return y.cos() + y

    assert_like_eager(compiled, broken, torch.randn(4))
    assert _graphs() == 2


def test_graph_break_on_a_value_of_the_data(compiled: Compile) -> None:
    def branch(x: Tensor) -> Tensor:
        y = x * 2
        if y.sum().item() > 0:
            return y + 1
        return y - 1

    assert_like_eager(compiled, branch, torch.ones(3))
    assert_like_eager(compiled, branch, -torch.ones(3))


def test_graph_break_on_print_and_on_numpy(compiled: Compile, capsys: pytest.CaptureFixture[str]) -> None:
    def chatty(x: Tensor) -> Tensor:
        y = x + 1
        print("sum", y.sum().item())
        return torch.from_numpy(y.numpy() * 2) + y

    assert_like_eager(compiled, chatty, torch.ones(3), calls=1)
    assert capsys.readouterr().out == "sum 6.0\nsum 6.0\n"


def test_fullgraph_captures_a_whole_model(compiled: Compile) -> None:
    model = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    call = compiled(model, fullgraph=True)
    x = torch.randn(2, 5, 16)
    same(call(x).detach(), model(x).detach())
    assert _graphs() == 1


def test_disabled_function_inside_runs_in_eager(compiled: Compile) -> None:
    seen = []

    @torch.compiler.disable
    def look(y: Tensor) -> Tensor:
        seen.append(y.tolist())
        return y * 3

    assert_like_eager(compiled, lambda x: look(x + 1) - 1, torch.ones(2), calls=1)
    assert seen == [[2.0, 2.0], [2.0, 2.0]]


def test_new_sizes_do_not_compile_again(compiled: Compile) -> None:
    layer = nn.Linear(4, 3)
    call = compiled(layer)
    with torch.no_grad():
        for rows in (2, 3, 4, 5, 9, 17, 64):
            same(call(torch.ones(rows, 4) * rows), layer(torch.ones(rows, 4) * rows))
    assert _graphs() <= 2  # one for the first size, one for any


def test_dynamic_true_compiles_once(compiled: Compile) -> None:
    def compute(x: Tensor) -> tuple[Tensor, Any]:
        return torch.cat([x, x[: x.shape[0] // 2]]).reshape(-1), x.shape[0] * 2 + 1

    call = compiled(compute, dynamic=True)
    for rows in (6, 8, 11, 30):
        same(call(torch.arange(rows * 2.0).view(rows, 2)), compute(torch.arange(rows * 2.0).view(rows, 2)))
    assert _graphs() == 1


def test_sizes_that_depend_on_two_inputs(compiled: Compile) -> None:
    def compute(x: Tensor, y: Tensor) -> Tensor:
        return (x[:, None] * y[None]).reshape(x.shape[0] * y.shape[0])[: x.shape[0] + 1]

    call = compiled(compute, dynamic=True)
    for m, n in ((3, 4), (5, 2), (4, 7)):
        same(call(torch.arange(m * 1.0), torch.arange(n * 1.0)), compute(torch.arange(m * 1.0), torch.arange(n * 1.0)))


def test_marked_dynamic_batch(compiled: Compile) -> None:
    call = compiled(lambda x: x.softmax(-1).sum(0))
    for rows in (3, 5, 8):
        x = torch.randn(rows, 4)
        torch._dynamo.mark_dynamic(x, 0)
        same(call(x), x.softmax(-1).sum(0))
    assert _graphs() == 1


def test_size_that_depends_on_the_data(compiled: Compile) -> None:
    def compute(x: Tensor) -> Tensor:
        return x[x > 0].sum() + x.nonzero().shape[0]

    assert_like_eager(compiled, compute, torch.tensor([1.0, -2.0, 3.0]))
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        assert_like_eager(compiled, compute, torch.tensor([1.0, -2.0, 3.0, 0.0]))


def test_scalar_captured_into_the_graph(compiled: Compile) -> None:
    with torch._dynamo.config.patch(capture_scalar_outputs=True):
        assert_like_eager(compiled, lambda x: x * x.sum().item() + 1, torch.tensor([1.0, 2.0]))


def _equal_or_unsupported(compiled: Compile, function: Callable[..., Any], operator: str, *arguments: Tensor) -> None:
    """Control flow may be missing, but only loudly: by our error, which names the operator."""
    try:
        actual = compiled(function, fullgraph=True)(*arguments)
    except BackendCompilerFailed as error:
        refusal = error.inner_exception
    else:
        same(actual, function(*arguments))
        return
    assert isinstance(refusal, UnsupportedOperator), refusal
    assert operator in str(refusal)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_cond_equals_eager_or_is_refused_by_name(sign: float, compiled: Compile) -> None:
    def branch(x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda t: t.sin(), lambda t: t.cos() * 2, (x,))

    _equal_or_unsupported(compiled, branch, "cond", torch.ones(3) * sign)


def test_while_loop_equals_eager_or_is_refused_by_name(compiled: Compile) -> None:
    def count(x: Tensor) -> tuple[Tensor, ...]:
        start = torch.zeros((), dtype=torch.int64)
        return while_loop(lambda i, y: i < 5, lambda i, y: (i + 1, y * 2), (start, x))

    _equal_or_unsupported(compiled, count, "while_loop", torch.ones(2))


def test_scan_equals_eager_or_is_refused_by_name(compiled: Compile) -> None:
    def cumulate(x: Tensor) -> tuple[Tensor, Tensor]:
        return scan(lambda total, row: (total + row, total * row), torch.zeros(3), x, dim=0)

    _equal_or_unsupported(compiled, cumulate, "scan", torch.randn(4, 3))


class _Cube(torch.autograd.Function):
    """x ** 3, with a gradient that is wrong on purpose, so that only it can have been used."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * x * 100


def test_custom_autograd_function(compiled: Compile) -> None:
    def loss(x: Tensor) -> Tensor:
        return (_Cube.apply(x * 2) + 1).sum()

    call = compiled(loss)
    for _ in range(2):
        inputs = [torch.arange(4.0, requires_grad=True) for _ in range(2)]
        for way, x in zip((loss, call), inputs, strict=True):
            way(x).backward()
        same(inputs[1].grad, inputs[0].grad)


def test_hook_on_a_result_sees_its_gradient(compiled: Compile) -> None:
    seen: list[Tensor] = []
    y = compiled(lambda x: x * 3)(torch.ones(2, requires_grad=True))
    y.register_hook(seen.append)
    (y * 2).sum().backward()
    same(seen, [torch.full((2,), 2.0)])


def test_checkpointed_block_trains_like_eager(compiled: Compile) -> None:
    layer = nn.Linear(4, 4)

    def loss(x: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(lambda t: layer(t).tanh(), x, use_reentrant=False).sum()

    gradients = []
    for way in (loss, compiled(loss)):
        layer.zero_grad()
        way(torch.ones(2, 4)).backward()
        gradients.append({n: p.grad.clone() for n, p in layer.named_parameters()})
    same(gradients[1], gradients[0])


def test_vmap_and_grad_inside_the_compiled_function(compiled: Compile) -> None:
    def per_sample(x: Tensor) -> Tensor:
        return torch.func.vmap(torch.func.grad(lambda row: row.square().sum()))(x)

    assert_like_eager(compiled, per_sample, torch.randn(3, 4))


@torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True)
def test_shape_of_a_result_that_depends_on_the_data(compiled: Compile) -> None:
    def compute(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.nonzero() * 2, x + 1

    for x in (torch.tensor([1.0, 0.0, 3.0]), torch.tensor([0.0, 0.0, 3.0])):
        assert_like_eager(compiled, compute, x)
