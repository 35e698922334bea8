"""PyTorch's own operator samples on `remote_accelerator`, against the CPU, bit by bit; run in a process of their own.

`python -m tests.integration.device.operators DTYPE ...` prints what differs, and fails unless that is exactly what
`KNOWN` names; `float32-backward` stands for the gradients of all inputs. A part of the operators, which their names
choose, and every sample in place of each operator's first:

    python -m tests.integration.device.operators --part 1/4 float32
    GENIE_TEST_ALL_SAMPLES=1 python -m tests.integration.device.operators float32
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch.testing._internal.common_methods_invocations import op_db

from tests.integration.device.parts import Part
from tests.integration.device.samples import DEVICE, main, on_device, wrong_of
from tests.integration.torch_samples.table import Attempt
from tests.integration.torch_samples.test_op_db import EXCLUDED, Entry, Sample

SHARE = 0.98
SHARE_BACKWARD = 0.97

KNOWN: dict[str, str] = {
    "tensor_split": "wants its indices on the CPU, and all tensors of a sample are moved",
    "to_sparse": "there are no sparse tensors on the device",
    "nn.functional.linear_cross_entropy.chunked:bfloat16": "PyTorch composes it for the CPU of what rounds less often",
    "nn.functional.linear_cross_entropy.chunked_none:bfloat16": "PyTorch composes it for the CPU of what rounds less",
    "fft.hfft:float32 backward": "only a daemon knows that a tensor is conjugated by a view, and refuses its real part",
}
"""Operators, in every dtype or in one, to the reason why they are not what they are on the CPU."""


def _attempt(sample: Sample, backend: Any) -> Any:
    found = sample.run(on_device if backend == DEVICE else lambda function: function)
    return found if sample.differentiated is not None else found[0]


def attempts(entry: Entry) -> Iterator[Attempt]:
    for sample in entry.samples():
        yield partial(_attempt, sample)


def run(title: str, part: Part) -> list[str]:
    """Run the operators of a part in a dtype; return what is not as `KNOWN` says."""
    name, _, way = title.partition("-")
    dtype = getattr(torch, name)
    entries = [
        Entry(op, dtype, way == "backward")
        for op in op_db
        if op.name not in EXCLUDED
        and part.has(op.name)
        and dtype in (op.supported_backward_dtypes("cpu") if way else op.supported_dtypes("cpu"))
    ]
    known = {entry.name: why for entry in entries for of, why in KNOWN.items() if of in (entry.op.name, entry.name)}
    return wrong_of(title, {entry.name: attempts(entry) for entry in entries}, SHARE_BACKWARD if way else SHARE, known)


if __name__ == "__main__":
    main(run)
