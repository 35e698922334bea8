"""The speed of a device, computing and moving memory, found when the worker starts. Placement asks for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

MAX_SECONDS = 0.03
ROUNDS = 5
CPU_WIDTH, CPU_NBYTES = 512, 24 << 20
CUDA_WIDTH, CUDA_NBYTES = 4_096, 256 << 20


@dataclass(frozen=True)
class DeviceSpeed:
    """Floating-point operations and bytes in a second."""

    flops_per_s: float
    bytes_per_s: float


def measure_speed(
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    width: int = 0,
    nbytes: int = 0,
    max_s: float = MAX_SECONDS,
) -> DeviceSpeed:
    """Measure a matrix product and a copy within the device's memory; the best of a few rounds counts.

    A product of n x n matrices is 2 n^3 operations (n multiplications and additions for each of n^2 elements: Golub
    and Van Loan, Matrix Computations, 1.1.10). A copy reads and writes each byte, as STREAM counts it (McCalpin 1995).
    The best round is the one that others disturbed least.

    Args:
        width: Of the matrices; the device's own where it is 0.
        nbytes: Size of the copy, likewise.
        max_s: For each of the two figures, on a device that is warm; at least one round always runs.
    """
    own_width, own_nbytes = (CUDA_WIDTH, CUDA_NBYTES) if device.type == "cuda" else (CPU_WIDTH, CPU_NBYTES)
    width, nbytes = width or own_width, nbytes or own_nbytes
    left, right = torch.ones(2, width, width, dtype=dtype, device=device)
    product = torch.empty_like(left)
    source = torch.ones(nbytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return DeviceSpeed(
        2 * width**3 / best_s(lambda: torch.mm(left, right, out=product), device, max_s),
        2 * nbytes / best_s(lambda: target.copy_(source), device, max_s),
    )


def best_s(action: Callable[[], object], device: torch.device, max_s: float) -> float:
    """Return how long an action takes, the best of a few rounds in about `max_s`."""
    elapsed_s(action, device)  # loads kernels, touches fresh pages
    started, best = time.perf_counter(), float("inf")
    for _ in range(ROUNDS):
        best = min(best, elapsed_s(action, device))
        if time.perf_counter() - started > max_s:
            break
    return best


def elapsed_s(action: Callable[[], object], device: torch.device) -> float:
    """Return how long an action takes until the device is through with it."""
    started = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
