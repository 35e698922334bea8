"""How fast a device copies and multiplies, and how long this process's kernels run on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import torch

from dynamo_genie.remote_daemon.worker.device_speed import elapsed_s

SOURCE_NBYTES = MappingProxyType({"cuda": 1 << 30, "cpu": 64 << 20})
MATRIX_WIDTH = MappingProxyType({"cuda": 8192, "cpu": 512})
ROUNDS = 5


@dataclass(frozen=True)
class Rates:
    """What the device can do: bytes copied and operations of a matrix product, in a second."""

    bytes_per_s: float
    flops_per_s: float


def measure_rates(device: torch.device, dtype: torch.dtype) -> Rates:
    """Measure how fast a device copies its own memory and multiplies matrices of a dtype; the best of five rounds."""
    source = torch.ones(SOURCE_NBYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    width = MATRIX_WIDTH[device.type]
    left = torch.ones(width, width, dtype=dtype, device=device)
    product = torch.empty_like(left)
    return Rates(
        2 * source.nbytes / _best_s(lambda: target.copy_(source), device),
        2 * width**3 / _best_s(lambda: torch.mm(left, left, out=product), device),
    )


def pinned_rate(device: torch.device) -> float:
    """Return bytes a second from host memory to the device: pinned memory where the device has its own."""
    host = torch.ones(SOURCE_NBYTES["cpu"], dtype=torch.uint8, pin_memory=device.type == "cuda")
    target = torch.empty_like(host, device=device)
    return host.nbytes / _best_s(lambda: target.copy_(host, non_blocking=True), device)


def _best_s(action: Callable[[], object], device: torch.device) -> float:
    elapsed_s(action, device)  # loads kernels, touches fresh pages
    return min(elapsed_s(action, device) for _ in range(ROUNDS))


def kernel_s(action: Callable[[], object], device: torch.device) -> float | None:
    """Run an action and return how long this process's kernels ran for it, as CUPTI counts; None without a GPU."""
    if device.type != "cuda":
        action()
        return None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        action()
        torch.cuda.synchronize(device)
    return float(sum(event.self_device_time_total for event in profile.key_averages())) / 1e6
