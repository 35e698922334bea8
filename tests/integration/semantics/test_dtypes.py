"""Every dtype, and the shapes and layouts at the edge: 0-d, empty, channels-last, strided, offset, scalars."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.integration.compare import assert_like_eager, same
from tests.integration.conftest import Compile

DTYPES = (
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.bfloat16,
    torch.float16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.complex128,
)


def _values(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    whole = torch.tensor([[0, 1, 2], [100, 7, 3]])
    return whole.to(dtype), whole.flip(0).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_arithmetic_in_each_dtype(dtype: torch.dtype, compiled: Compile) -> None:
    def compute(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        if dtype == torch.bool:
            return x & ~y, x | y, x.any(), x.sum()
        return x * 2 + y, x - y, x == y, x.sum(), x.to(torch.complex64 if dtype.is_complex else torch.float32)

    assert_like_eager(compiled, compute, *_values(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_result_in_each_dtype_can_be_fed_back(dtype: torch.dtype, compiled: Compile) -> None:
    call = compiled(lambda x: torch.cat([x, x[:1]]))
    x = _values(dtype)[0]
    for _ in range(3):
        expected = torch.cat([x, x[:1]])
        x = call(x)
        same(x, expected)


@pytest.mark.parametrize("source", DTYPES[:9], ids=str)
def test_conversion_from_each_dtype(source: torch.dtype, compiled: Compile) -> None:
    targets = (torch.bool, torch.int64, torch.bfloat16, torch.float16, torch.float64)
    assert_like_eager(compiled, lambda x: [x.to(target) for target in targets], _values(source)[0])


def test_special_float_values_survive(compiled: Compile) -> None:
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1e-45, 3.4e38])
    assert_like_eager(compiled, lambda x: (x * 1, -x, x.abs(), x + 0.0, x.isnan()), special)


def test_integers_beyond_the_float_range_survive(compiled: Compile) -> None:
    extreme = torch.tensor([2**63 - 1, -(2**63), 2**53 + 1])
    assert_like_eager(compiled, lambda x: (x + 0, x ^ 1, x >> 1), extreme)


def test_zero_dimensional_inputs_and_outputs(compiled: Compile) -> None:
    assert_like_eager(compiled, lambda x, y: (x * y, x.sum(), y.view(1)), torch.tensor(3.0), torch.tensor(2))


@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0), (2, 0, 3)], ids=str)
def test_empty_tensors(shape: tuple[int, ...], compiled: Compile) -> None:
    assert_like_eager(compiled, lambda x: (x * 2, x.sum(), x.reshape(-1), torch.cat([x, x])), torch.empty(shape))


def test_empty_matrix_product(compiled: Compile) -> None:
    assert_like_eager(compiled, lambda x, y: (x @ y, (x @ y).sum()), torch.empty(3, 0), torch.empty(0, 4))


def test_batch_that_becomes_empty(compiled: Compile) -> None:
    layer = nn.Linear(3, 2)
    call = compiled(layer)
    with torch.no_grad():
        for rows in (4, 0, 1, 5):
            same(call(torch.ones(rows, 3)), layer(torch.ones(rows, 3)))


def test_channels_last_values_and_strides(compiled: Compile) -> None:
    conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    image = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)
    with torch.no_grad():
        assert conv(image).is_contiguous(memory_format=torch.channels_last)
        assert_like_eager(compiled, conv, image)
        assert_like_eager(compiled, lambda x: x + 1, image)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.t(),
        lambda x: x[1:, 2:],
        lambda x: x[::2, ::3],
        lambda x: x.flatten()[5:],
        lambda x: x[:1].expand(5, 6),
        lambda x: x.view(2, 2, 6).permute(2, 0, 1),
    ],
    ids=["transposed", "offset", "strided", "flat offset", "expanded", "permuted"],
)
def test_strided_inputs_keep_values_and_strides(view: Any, compiled: Compile) -> None:
    assert_like_eager(compiled, lambda x: (x + 1, x.clone(), x.sum(-1)), view(torch.randn(4, 6)))


def test_conjugated_and_negated_inputs(compiled: Compile) -> None:
    z = torch.randn(3, dtype=torch.complex64)
    assert_like_eager(compiled, lambda x: x * 2, z.conj())
    assert_like_eager(compiled, lambda x: x * 2, z.conj().imag)


def test_python_numbers_as_arguments(compiled: Compile) -> None:
    def mixed(x: Tensor, count: int, scale: float, flip: bool, nothing: None) -> tuple[Any, ...]:
        return x * count + scale if flip else x, count + 1, nothing

    call = compiled(mixed)
    for arguments in ((2, 0.5, True), (3, 0.25, True), (4, 0.125, False), (5, float("inf"), True)):
        same(call(torch.ones(2), *arguments, None), mixed(torch.ones(2), *arguments, None))


def test_a_number_that_came_down_to_one_value_is_returned(compiled: Compile) -> None:
    def function(x: Tensor, n: int) -> tuple[Any, ...]:
        return x * n + 2, torch.tensor([1, 2, n]), n * 2, torch.arange(n)

    run = compiled(function)
    assert [run(torch.ones(2), n)[2] for n in (3, 4, 5, 0, 1)] == [6, 8, 10, 0, 2]


def test_a_number_beside_a_size_that_depends_on_the_data_is_returned(compiled: Compile) -> None:
    def function(x: Tensor, n: int) -> tuple[Any, ...]:
        return x.nonzero(), n * 2, x.sum(), x.new_ones(n), n >= 4

    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        run = compiled(function, fullgraph=True, dynamic=True)
        for n in (3, 4, 5):
            x = torch.tensor([0.0, 1, 0, 2])[: n - 1]
            same(run(x, n), function(x, n))


def test_nested_containers_go_in_and_come_out(compiled: Compile) -> None:
    def swap(tree: dict[str, Any]) -> dict[str, Any]:
        return {"b": [tree["a"] + 1, (tree["c"][0], None)], "n": tree["c"][1]}

    assert_like_eager(compiled, swap, {"a": torch.ones(2), "c": (torch.zeros(3), 5)})


def test_constants_made_inside(compiled: Compile) -> None:
    def make(x: Tensor) -> tuple[Tensor, ...]:
        made = torch.arange(4), torch.eye(2), torch.full((2,), 7), torch.tensor([1.5, 2.5]), torch.linspace(0, 1, 5)
        return (*made, x + made[1])

    assert_like_eager(compiled, make, torch.ones(2, 2))


def test_large_result_and_large_input(compiled: Compile) -> None:
    # beyond every limit for data inside a message, so that both directions go in bulk
    assert_like_eager(compiled, lambda x: (x + 1, x.t() * 2), torch.randn(1024, 1100))


def test_many_inputs_and_outputs(compiled: Compile) -> None:
    assert_like_eager(compiled, lambda *xs: [x + i for i, x in enumerate(xs)], *(torch.ones(2) * i for i in range(200)))
