"""The capture of a CUDA graph that failed, below the public interface: what torch's allocator is left with."""

from __future__ import annotations

import torch
import torch.cuda.memory

from dynamo_genie.torch_internals.probe import Probe


def end_failed_capture(device: torch.device, pool: tuple[int, int]) -> bool:
    """Let torch's allocator leave the pool of a capture that failed; return whether it was still in it.

    torch 2.11 raises in `CUDAGraph.capture_end` before it does so itself (pytorch/pytorch#180395 mends it). From then
    on its allocator, asked to give memory back, asserts that no capture is under way, and refuses the pool. The hook
    has had this name since torch 2.8.
    """
    try:
        torch.cuda.memory._cuda_endAllocateToPool(device.index, pool)
    except RuntimeError:  # "not currently recording": torch has done it
        return False
    return True


PROBES = (
    Probe(
        "torch.cuda.memory._cuda_endAllocateToPool",
        "tidies up after a CUDA graph that cannot be recorded",
        lambda: torch.cuda.memory._cuda_endAllocateToPool,  # what it does needs a device
        ("2.13.0",),
    ),
)
