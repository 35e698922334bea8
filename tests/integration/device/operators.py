"""PyTorch's own operator samples on `remote_accelerator`, against the CPU, bit by bit; run in a process of their own.

`python -m tests.integration.device.operators DTYPE ...` prints what differs, and fails unless that is exactly what
`KNOWN` names. Every sample, in place of each operator's first:

    GENIE_TEST_ALL_SAMPLES=1 python -m tests.integration.device.operators float32
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils._pytree import tree_map

import dynamo_genie
from dynamo_genie.device.register import register_device
from tests.integration.torch_samples.table import Attempt, NoReference, first_failure
from tests.integration.torch_samples.test_op_db import EXCLUDED, Entry, Sample

DEVICE = "remote_accelerator:0"

KNOWN: dict[str, str] = {
    "tensor_split": "wants its indices on the CPU, and all tensors of a sample are moved",
    "to_sparse": "there are no sparse tensors on the device",
    "nn.functional.linear_cross_entropy:bfloat16": "PyTorch composes it for the CPU of what rounds less often",
}
"""Operators, in every dtype or in one, to the reason why they are not what they are on the CPU."""


def on_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that moves its arguments to the device, and runs there."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        arguments, keywords = tree_map(_moved, (arguments, keywords))
        return function(*arguments, **keywords)

    return call


def _moved(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to(DEVICE)
    return torch.device(DEVICE) if value == torch.device("cpu") or value == "cpu" else value


def _attempt(sample: Sample, backend: Any) -> Any:
    return sample.run(on_device if backend == DEVICE else lambda function: function)[0]


def attempts(entry: Entry) -> Iterator[Attempt]:
    for sample in entry.samples():
        yield partial(_attempt, sample)


def run(dtype: torch.dtype) -> list[str]:
    """Run all that take a dtype, and print how many differ; return what is not as `KNOWN` says."""
    differ: dict[str, str] = {}
    wanted = [Entry(op, dtype) for op in op_db if op.name not in EXCLUDED and op.supports_dtype(dtype, "cpu")]
    silent = 0
    for entry in wanted:
        try:
            found = first_failure(attempts(entry), DEVICE)
        except NoReference:
            silent += 1
            continue
        if found is not None:
            differ[entry.op.name] = found
    ran = len(wanted) - silent
    print(f"{dtype}: {ran - len(differ)} of {ran} as on the CPU ({1 - len(differ) / ran:.2%})", flush=True)
    suffix = str(dtype).removeprefix("torch")
    known = {entry.op.name for entry in wanted if not KNOWN.keys().isdisjoint(_names(entry.op.name, suffix))}
    new = [f"{name} in {dtype}: {why}" for name, why in differ.items() if name not in known]
    return [*new, *(f"{name} in {dtype} is known to differ, and does not" for name in known - differ.keys())]


def _names(operator: str, suffix: str) -> tuple[str, str]:
    return operator, f"{operator}:{suffix.removeprefix('.')}"


def main(dtypes: list[str]) -> int:
    """Run some; return how many entries are not as they should be."""
    register_device()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    wrong = [line for name in dtypes for line in run(getattr(torch, name))]
    print("\n".join(wrong), flush=True)
    dynamo_genie.shutdown()
    return min(len(wrong), 100)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
