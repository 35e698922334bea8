"""PyTorch's own operator samples through the backend, against eager, bit by bit: forward, and backward in float32.

The table counts operators and dtypes; those that may differ are in `KNOWN_DIFFERENCES`. By default an operator runs on
one sample, in float32 and in one of the other dtypes. By hand, for some operators in all dtypes, for all operators in
all, and for every sample:

    GENIE_TEST_OP_DB="add,sort" python -m pytest tests/integration/torch_samples/test_op_db.py -m slow -s
    GENIE_TEST_ALL_DTYPES=1 python -m pytest tests/integration/torch_samples/test_op_db.py -m slow -s
    GENIE_TEST_ALL_SAMPLES=1 python -m pytest tests/integration/torch_samples/test_op_db.py -m slow -s
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils._pytree import tree_leaves, tree_map

from tests.integration.torch_samples.table import ALL, Attempt, assert_like_eager, first, first_failure

OTHER_DTYPES = (torch.int64, torch.bfloat16, torch.complex64, torch.bool)
"""What is run forward beside float32, and each operator by default in one of."""

NAMES = os.environ.get("GENIE_TEST_OP_DB", "")
ALL_DTYPES = ALL or NAMES != "" or os.environ.get("GENIE_TEST_ALL_DTYPES") == "1"
SAMPLES = 3 if os.environ.get("GENIE_TEST_ALL_DTYPES") == "1" else 1
SHARE = 0.995

EXCLUDED = {
    "empty": "returns memory that nobody wrote",
    "empty_like": "returns memory that nobody wrote",
    "empty_strided": "returns memory that nobody wrote",
    "empty_permuted": "returns memory that nobody wrote",
    "new_empty": "returns memory that nobody wrote",
    "new_empty_strided": "returns memory that nobody wrote",
    "jiterator_unary": "CUDA only",
    "jiterator_binary": "CUDA only",
    "jiterator_binary_return_by_ref": "CUDA only",
    "jiterator_4inputs_with_extra_args": "CUDA only",
    "jiterator_2inputs_2outputs": "CUDA only",
}

KNOWN_DIFFERENCES: dict[str, str] = {
    f"nn.functional.max_unpool2d{variant}:{dtype}": "PyTorch's meta function knows no channels_last"
    for variant in ("", ".grad")
    for dtype in ("float32", "bfloat16", "float32 backward")
}
"""Operator and dtype, as the table prints them, to the reason why the backend may differ from eager there."""


@dataclass(frozen=True)
class Entry:
    """An operator with a dtype, run forward or, where `backward` is set, forward and back."""

    op: Any
    dtype: torch.dtype
    backward: bool = False

    @property
    def name(self) -> str:
        variant = f".{self.op.variant_test_name}" if self.op.variant_test_name else ""
        way = " backward" if self.backward else ""
        return f"{self.op.name}{variant}:{str(self.dtype).removeprefix('torch.')}{way}"

    def samples(self) -> Iterator[Sample]:
        torch.manual_seed(0)
        # not `sample_inputs`, which looks through the whole stack for a test of unittest, at every sample
        found = self.op.sample_inputs_func(self.op, "cpu", self.dtype, self.backward)
        for sample in first(found, SAMPLES):
            keep = sample.output_process_fn_grad if self.backward else None
            yield Sample(self.op.op, (sample.input, *sample.args), dict(sample.kwargs), keep)


@dataclass(frozen=True)
class Sample:
    """One call of an operator, which can be made again and again on equal inputs."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    differentiated: Callable[[Any], Any] | None
    """What of the result a gradient is taken of; None to run forward only."""

    def run(self, through: Callable[[Callable[..., Any]], Callable[..., Any]]) -> tuple[Any, ...]:
        """All that can be seen afterwards: results, arguments, gradients; runs start from equal state."""
        arguments, keywords = tree_map(_copy, (self.arguments, self.keywords))
        torch.manual_seed(1234)
        if self.differentiated is None:
            with torch.no_grad():
                result = through(self.function)(*arguments, **keywords)
            return result, (arguments, keywords)
        result = through(self.function)(*arguments, **keywords)
        _differentiate(self.differentiated(result))
        inputs = [leaf for leaf in tree_leaves((arguments, keywords)) if isinstance(leaf, Tensor)]
        return result, [leaf.grad for leaf in inputs]


def _copy(value: Any) -> Any:
    """A copy that keeps strides and overlap, since some samples are expanded or transposed tensors."""
    if not isinstance(value, Tensor):
        return value
    return copy.deepcopy(value.detach()).requires_grad_(value.requires_grad)


def _differentiate(result: Any) -> None:
    """Give every input its gradient, with a tangent that tells elements apart."""
    outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.requires_grad]
    torch.manual_seed(4321)
    tangents = [torch.randn(output.shape, dtype=output.dtype).to(output.device) for output in outputs]
    torch.autograd.backward(outputs, tangents)


def selected_operators() -> list[Any]:
    names = {name.strip() for name in NAMES.split(",") if name.strip()}
    unknown = names - {op.name for op in op_db}
    assert not unknown, f"GENIE_TEST_OP_DB names operators that op_db lacks: {sorted(unknown)}"
    return [op for op in op_db if op.name not in EXCLUDED and (not names or op.name in names)]


def runs_in(number: int, op: Any, dtype: torch.dtype) -> bool:
    """Whether the operator of this number in the table runs in a dtype: by default in one of the others, in turn."""
    if not op.supports_dtype(dtype, "cpu"):
        return False
    if ALL_DTYPES or dtype not in OTHER_DTYPES:
        return True
    supported = [other for other in OTHER_DTYPES if op.supports_dtype(other, "cpu")]
    return supported[number % len(supported)] == dtype


def attempts(entry: Entry) -> Iterator[Attempt]:
    for sample in entry.samples():
        yield partial(_attempt, sample)


def _attempt(sample: Sample, backend: Any) -> Any:
    if backend is None:
        return sample.run(lambda function: function)
    return sample.run(lambda function: torch.compile(_wrap(function), backend=backend))


def _wrap(function: Callable[..., Any]) -> Callable[..., Any]:
    """A Python frame of our own around the operator, which Dynamo would skip if called bare."""

    def call_operator(*arguments: Any, **keywords: Any) -> Any:
        return function(*arguments, **keywords)

    return call_operator


IN_CI = frozenset({torch.float32, torch.int64})


def run_table(entries: list[Entry], backend: Any) -> None:
    named = {entry.name: attempts(entry) for entry in entries}
    assert_like_eager(named, backend, share=SHARE, known=KNOWN_DIFFERENCES)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(dtype, marks=() if dtype in IN_CI else pytest.mark.sweep, id=str(dtype))
        for dtype in (torch.float32, *OTHER_DTYPES)
    ],
)
def test_operator_samples_equal_eager(dtype: torch.dtype, backend: Any) -> None:
    ops = [op for number, op in enumerate(selected_operators()) if runs_in(number, op, dtype)]
    run_table([Entry(op, dtype) for op in ops], backend)


@pytest.mark.slow
@pytest.mark.sweep
@pytest.mark.timeout(1800)
def test_gradients_of_operator_samples_equal_eager(backend: Any) -> None:
    dtype = torch.float32
    ops = [op for op in selected_operators() if dtype in op.supported_backward_dtypes("cpu")]
    run_table([Entry(op, dtype, backward=True) for op in ops], backend)


def test_the_harness_sees_a_backend_that_is_wrong() -> None:
    def off_by_one(gm: torch.fx.GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
        return lambda *args: tuple(out + 1 for out in gm(*args))

    add = next(op for op in op_db if op.name == "add")
    for entry in (Entry(add, torch.float32), Entry(add, torch.float32, backward=True)):
        assert first_failure(attempts(entry), "eager") is None
        assert "values differ" in (first_failure(attempts(entry), off_by_one) or "")


def test_the_harness_sees_a_gradient_that_is_wrong() -> None:
    def halves_gradients(gm: torch.fx.GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
        return lambda *args: tuple(out / 2 + (out / 2).detach() for out in gm(*args))

    entry = Entry(next(op for op in op_db if op.name == "mul"), torch.float32, backward=True)
    assert "result[1]" in (first_failure(attempts(entry), halves_gradients) or "")
