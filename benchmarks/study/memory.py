"""Whether a model fits on this machine in all modes at once, from its configuration alone."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from dynamo_genie.bench.study.records import Gap
from dynamo_genie.bench.study.workloads import workload_of
from dynamo_genie.tensors import TORCH_DTYPES

_PROCESS_NBYTES = 600_000_000
"""What Python, torch and transformers take in a process beside the weights."""


def what_fits(names: Sequence[str], modes: int, dtype: str, *, on_gpu: bool) -> tuple[list[str], list[Gap]]:
    """Return the models that this machine can run in so many modes at a time, and why it cannot run the others.

    Every mode has a client and a daemon with the weights of their own; on a GPU the daemons' are there.
    """
    fitting, gaps = [], []
    for name in names:
        needed, there = needed_nbytes(name, dtype, modes, on_gpu=on_gpu), available_nbytes()
        if needed <= there:
            fitting.append(name)
        else:
            sizes = f"{needed / 1e9:.0f} GB of memory for {modes} clients and their daemons in {dtype}"
            gaps.append(Gap(name, f"needs {sizes}, and {there / 1e9:.0f} GB are there"))
    return fitting, gaps


def needed_nbytes(name: str, dtype: str, modes: int, *, on_gpu: bool) -> int:
    """Return the memory of this machine that clients and daemons of so many modes need for a model."""
    weights = parameters_of(name) * TORCH_DTYPES[dtype].itemsize
    copies = modes + (0 if on_gpu else modes - 1)  # `local` has no daemon
    return copies * weights + (2 * modes - 1) * _PROCESS_NBYTES + weights  # one more while `naive` sends them


def parameters_of(name: str) -> int:
    """Return how many parameters a model has, tied ones once; no memory is taken for them."""
    import transformers

    workload = workload_of(name)
    with torch.device("meta"):
        model = getattr(transformers, workload.architecture)(workload.config(1))
    return sum(parameter.numel() for parameter in model.parameters())


def available_nbytes() -> int:
    """Return the memory that this machine can give."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
