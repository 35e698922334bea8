"""How fast a device copies and multiplies, and how fast a daemon's client fills its memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import torch

import dynamo_genie
from dynamo_genie.connections.connections import CONNECTIONS
from dynamo_genie.options import Options
from dynamo_genie.remote_daemon.worker.device_speed import elapsed_s

SOURCE_NBYTES = MappingProxyType({"cuda": 1 << 30, "cpu": 64 << 20})
MATRIX_WIDTH = MappingProxyType({"cuda": 8192, "cpu": 512})
ROUNDS = 5
UPLOAD_NBYTES = 256 << 20


@dataclass(frozen=True)
class Rates:
    """What the device can do: bytes copied and operations of a matrix product, in a second."""

    bytes_per_s: float
    flops_per_s: float


@dataclass(frozen=True)
class WeightsTimes:
    """Seconds until all weights of a model are on the device: from nothing, and for a session that finds them there."""

    first_s: float
    second_s: float


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


def upload_rate(endpoint: str) -> float:
    """Return bytes a second of one large tensor from this process into the daemon's device memory."""
    session = CONNECTIONS.get(Options(daemons=(endpoint,))).session
    data = torch.ones(UPLOAD_NBYTES, dtype=torch.uint8)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        handle = session.put(data)
        session.sync()
        seconds.append(time.perf_counter() - started)
        del handle
    return UPLOAD_NBYTES / min(seconds)


def weights_times(endpoint: str, model: torch.nn.Module) -> WeightsTimes:
    """Bind a model's weights in one session, then in another one; each hashes them and waits until all are named."""
    seconds = []
    for _ in range(2):
        connection = CONNECTIONS.get(Options(daemons=(endpoint,), progress=False))
        started = time.perf_counter()
        with connection.session.lock:
            binding = connection.weights.bind(list(dict.fromkeys(model.parameters())))
            connection.session.sync()
        seconds.append(time.perf_counter() - started)
        del binding
        dynamo_genie.shutdown()
    return WeightsTimes(*seconds)
