"""PyTorch's own module samples on `remote_accelerator`, against the CPU, bit by bit; run in a process of their own.

`python -m tests.integration.device.modules train eval` runs each module forth and back in both modes, and fails unless
exactly what `KNOWN` names differs.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch.testing._internal.common_modules import module_db

from tests.integration.device.parts import Part
from tests.integration.device.samples import DEVICE, main, on_device, wrong_of
from tests.integration.torch_samples import test_module_db as module_samples
from tests.integration.torch_samples.table import Attempt

SHARE = 0.97

KNOWN: dict[str, str] = {}
"""Modules and modes to the reason why they are not what they are on the CPU."""


def _attempt(entry: module_samples.Entry, sample: Any, backend: Any) -> Any:
    module = module_samples.build(entry, sample)
    if backend != DEVICE:
        return module_samples.run(module, sample, module)
    module.to(DEVICE)
    return module_samples.run(module, sample, on_device(module))


def attempts(entry: module_samples.Entry) -> Iterator[Attempt]:
    for sample in entry.samples():
        yield partial(_attempt, entry, sample)


def run(title: str, part: Part) -> list[str]:
    """Run the modules of a part in a mode; return what is not as `KNOWN` says."""
    entries = [module_samples.Entry(info, title == "train") for info in module_db if part.has(info.name)]
    return wrong_of(title, {entry.name: attempts(entry) for entry in entries}, SHARE, KNOWN)


if __name__ == "__main__":
    main(run)
