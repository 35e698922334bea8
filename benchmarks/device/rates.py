"""How fast a device copies and multiplies, and how long this process's kernels run on it."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import MappingProxyType

import torch

from dynamo_genie.remote_daemon.worker.device_speed import DeviceSpeed, best_s, measure_speed

SOURCE_NBYTES = MappingProxyType({"cuda": 1 << 30, "cpu": 64 << 20})
MATRIX_WIDTH = MappingProxyType({"cuda": 8192, "cpu": 512})


def measure_rates(device: torch.device, dtype: torch.dtype) -> DeviceSpeed:
    """Measure how fast a device copies its own memory and multiplies matrices of a dtype; the best of five rounds."""
    kind = device.type
    return measure_speed(device, dtype, MATRIX_WIDTH[kind], SOURCE_NBYTES[kind], math.inf)


def pinned_rate(device: torch.device) -> float:
    """Return bytes a second from host memory to the device: pinned memory where the device has its own."""
    host = torch.ones(SOURCE_NBYTES["cpu"], dtype=torch.uint8, pin_memory=device.type == "cuda")
    target = torch.empty_like(host, device=device)
    return host.nbytes / best_s(lambda: target.copy_(host, non_blocking=True), device, math.inf)


def kernel_s(action: Callable[[], object], device: torch.device) -> float | None:
    """Run an action and return how long this process's kernels ran for it, as CUPTI counts; None without a GPU."""
    if device.type != "cuda":
        action()
        return None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        action()
        torch.cuda.synchronize(device)
    return float(sum(event.self_device_time_total for event in profile.key_averages())) / 1e6
