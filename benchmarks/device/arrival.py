"""How a model's weights arrive in a daemon: the rate of uploads, and the time until a second session has them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import MappingProxyType

import torch

import dynamo_genie
from dynamo_genie.bench.device.rates import pinned_rate
from dynamo_genie.bench.model import parameter_nbytes
from dynamo_genie.bench.report import Figure
from dynamo_genie.connections.connections import CONNECTIONS
from dynamo_genie.options import Options

SECOND_SESSION = "a second session binds them, hashing included"
UPLOAD_NBYTES = MappingProxyType({"cuda": 256 << 20, "cpu": 32 << 20})


@dataclass(frozen=True)
class WeightsTimes:
    """Seconds until all weights of a model are on the device: from nothing, and for a session that finds them there."""

    first_s: float
    second_s: float


def measure_arrival(endpoint: str, model: torch.nn.Module, device: torch.device) -> list[Figure]:
    """Send a model to a daemon, bind it once more in another session, and return the figures of both."""
    arrival = weights_times(endpoint, model)
    upload, pinned = upload_rate(endpoint, UPLOAD_NBYTES[device.type]), pinned_rate(device)
    whole = parameter_nbytes(model) / arrival.first_s
    return [
        Figure("upload of a tensor, floor a copy of host memory", upload / 1e9, "GB/s", pinned / 1e9, upload / pinned),
        Figure("upload of all weights, hashing included", whole / 1e9, "GB/s", pinned / 1e9, whole / pinned),
        Figure(SECOND_SESSION, arrival.second_s * 1e3, "ms"),
    ]


def upload_rate(endpoint: str, nbytes: int) -> float:
    """Return bytes a second of one large tensor from this process into the daemon's device memory."""
    session = CONNECTIONS.get(Options(daemons=(endpoint,))).session
    data = torch.ones(nbytes, dtype=torch.uint8)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        handle = session.put(data)
        session.sync()
        seconds.append(time.perf_counter() - started)
        del handle
    return nbytes / min(seconds)


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
