"""PyTorch's own optimizer samples on `remote_accelerator`, against the CPU, bit by bit; run in a process of their own.

`python -m tests.integration.device.optimizers eager compiled` takes some steps with each optimizer, eager, or with the
step or the model compiled, and fails unless exactly what `KNOWN` names differs. Where a sample leaves the form to the
optimizer, which goes by the device, both are told to go in groups, as they do on the device by default.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from tests.integration.device.parts import Part
from tests.integration.device.samples import DEVICE, main, wrong_of
from tests.integration.torch_samples.table import ALL
from tests.integration.torch_samples.test_optim_db import COMPILED_STEP, Entry, entries, train

SHARE = 0.97 if ALL else 0.95
"""Of the first few samples of each, more are of the one that is known."""

KNOWN: dict[str, str] = {"SparseAdam": "there are no sparse tensors on the device"}
"""Optimizers to the reason why they are not what they are on the CPU."""

FORMS = frozenset({"foreach", "fused", "capturable"})


def _attempt(entry: Entry, compiled: bool, backend: Any) -> Any:
    if "foreach" in entry.info.supported_impls and FORMS.isdisjoint(entry.arguments):
        entry = replace(entry, arguments={**entry.arguments, "foreach": True})
    if backend == DEVICE:
        return train(entry, "genie" if compiled else None, DEVICE)
    return train(entry, backend)


def run(title: str, part: Part) -> list[str]:
    """Run the optimizers of a part in a way; return what is not as `KNOWN` says."""
    compiled = title == "compiled"
    found = [entry for entry in entries() if part.has(entry.name) and (compiled or entry.way == COMPILED_STEP)]
    attempts = {entry.name: [partial(_attempt, entry, compiled)] for entry in found}
    known = {entry.name: KNOWN[entry.info.name] for entry in found if entry.info.name in KNOWN}
    return wrong_of(title, attempts, SHARE, known)


if __name__ == "__main__":
    main(run)
