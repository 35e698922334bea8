"""PyTorch's own operator samples through the backend, against eager, bit by bit.

One test walks `op_db` and prints a table. An operator that fails under `aot_eager` too says nothing about the
backend and is left out of the count; of the rest, 99 % must equal eager, and the others are in `KNOWN_DIFFERENCES`.
By hand, for some operators only:

    GENIE_TEST_OP_DB="add,sort" python -m pytest tests/integration/semantics/test_op_db.py -m slow -s
"""

from __future__ import annotations

import copy
import itertools
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils._pytree import tree_map

from tests.integration.compare import difference

SAMPLES = 3
DTYPES = (torch.float32, torch.int64)
SHARE = 0.99

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
    "as_strided_copy:float32": "reads memory around its argument, and only what the argument shows is sent",
    "histogram:float32": "refused by name: has no CUDA kernel",
    "histogramdd:float32": "refused by name: has no CUDA kernel",
    "nn.functional.linear_cross_entropy.chunked:float32": "refused by name: a fused kernel outside of ATen",
    "nn.functional.linear_cross_entropy.chunked_none:float32": "refused by name: a fused kernel outside of ATen",
}
"""Operator and dtype, as the table prints them, to the reason why the backend may differ from eager there."""

NEEDS_A_DAEMON = True
"""An operator that kills its process must not take the tests along."""


@dataclass(frozen=True)
class Sample:
    """One call of an operator, which can be made again and again on equal inputs."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]

    def run(self, through: Callable[[Callable[..., Any]], Callable[..., Any]]) -> tuple[Any, Any]:
        """The result and the arguments afterwards; both runs of a sample start from equal state."""
        arguments, keywords = tree_map(_copy, (self.arguments, self.keywords))
        torch.manual_seed(1234)
        with torch.no_grad():
            result = through(self.function)(*arguments, **keywords)
        return result, (arguments, keywords)


def _copy(value: Any) -> Any:
    """A copy that keeps strides and overlap, since some samples are expanded or transposed tensors."""
    return copy.deepcopy(value.detach()) if isinstance(value, torch.Tensor) else value


def selected_operators() -> list[Any]:
    names = {name.strip() for name in os.environ.get("GENIE_TEST_OP_DB", "").split(",") if name.strip()}
    unknown = names - {op.name for op in op_db}
    assert not unknown, f"GENIE_TEST_OP_DB names operators that op_db lacks: {sorted(unknown)}"
    return [op for op in op_db if op.name not in EXCLUDED and (not names or op.name in names)]


def samples(op: Any, dtype: torch.dtype) -> Iterator[Sample]:
    torch.manual_seed(0)
    for sample in itertools.islice(op.sample_inputs("cpu", dtype, requires_grad=False), SAMPLES):
        yield Sample(op.op, (sample.input, *sample.args), dict(sample.kwargs))


def failure(sample: Sample, backend: Any) -> str | None:
    """Why the backend's result is not eager's, in one line; None when it is."""
    try:
        expected = sample.run(lambda function: function)
    except Exception as error:  # noqa: BLE001 - whatever eager raises, the sample is of no use
        return f"eager itself raises {type(error).__name__}"
    try:
        actual = sample.run(lambda function: torch.compile(_wrap(function), backend=backend))
        return difference(actual, expected)
    except Exception as error:  # noqa: BLE001 - any error is a line of the table
        return f"{type(error).__name__}: {error}".splitlines()[0]


def _wrap(function: Callable[..., Any]) -> Callable[..., Any]:
    """A Python frame of our own around the operator, which Dynamo would skip if called bare."""

    def call_operator(*arguments: Any, **keywords: Any) -> Any:
        return function(*arguments, **keywords)

    return call_operator


def first_failure(op: Any, dtype: torch.dtype, backend: Any) -> str | None:
    torch._dynamo.reset()
    found = (failure(sample, backend) for sample in samples(op, dtype))
    return next((text for text in found if text is not None), None)


def label(op: Any, dtype: torch.dtype) -> str:
    return f"{op.name}{'.' + op.variant_test_name if op.variant_test_name else ''}:{str(dtype).removeprefix('torch.')}"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_operator_samples_equal_eager(backend: Any) -> None:
    entries = [(op, dtype) for op in selected_operators() for dtype in DTYPES if op.supports_dtype(dtype, "cpu")]
    failures: dict[str, str] = {}
    not_counted: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for op, dtype in entries:
            found = first_failure(op, dtype, backend)
            if found is None:
                continue
            reference = found if backend == "aot_eager" else first_failure(op, dtype, "aot_eager")
            (failures if reference is None else not_counted)[label(op, dtype)] = found
    counted = len(entries) - len(not_counted)
    _print_table(f"differ under aot_eager too ({len(not_counted)} of {len(entries)}, not counted)", not_counted)
    _print_table(f"differ from eager ({len(failures)} of {counted})", failures)
    unexplained = sorted(set(failures) - set(KNOWN_DIFFERENCES))
    assert len(failures) <= (1 - SHARE) * counted, f"{len(failures)} of {counted} operators differ: {failures}"
    assert not unexplained, f"not in KNOWN_DIFFERENCES: { {name: failures[name] for name in unexplained} }"


def _print_table(title: str, rows: dict[str, str]) -> None:
    print(f"\n{title}")
    for name, reason in rows.items():
        print(f"  {name:<55} {KNOWN_DIFFERENCES.get(name, '')} {reason[:120]}")


def test_the_harness_sees_a_backend_that_is_wrong() -> None:
    def off_by_one(gm: torch.fx.GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
        return lambda *args: tuple(out + 1 for out in gm(*args))

    add = next(op for op in op_db if op.name == "add")
    assert first_failure(add, torch.float32, "eager") is None
    assert "values differ" in (first_failure(add, torch.float32, off_by_one) or "")
