"""A model twice: on the device of this process, and as the one that a daemon's client compiles."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from dynamo_genie.bench.device.made_weights import (
    fingerprint,
    largest_numel,
    made_weights,
    remote_indices,
    set_weights,
)
from dynamo_genie.bench.study.workloads import build_empty, build_model
from dynamo_genie.connections.connections import CONNECTIONS
from dynamo_genie.errors import GenieError
from dynamo_genie.options import Options
from dynamo_genie.tensor.remote_tensor import handle_of

Weights = Literal["uploaded", "made"]
"""How the daemon comes by them: sent by the client, or computed there and here by the same formula."""


@dataclass(frozen=True)
class ModelPair:
    """The same weights twice: `here` for this process's own ways, `there` to compile with the backend.

    Attributes:
        kept: What must live as long as `there` does.
    """

    here: Any
    there: Any
    kept: tuple[Tensor, ...] = ()


def uploaded_pair(name: str, dtype: torch.dtype, device: torch.device, longest: int) -> ModelPair:
    """Draw a model on the CPU, where it stays for the daemon, and copy it to the device."""
    model = build_model(name, dtype=dtype, device="cpu", seed=0, longest=longest)
    return ModelPair(model if device.type == "cpu" else copy.deepcopy(model).to(device), model)


def made_pair(name: str, dtype: torch.dtype, device: torch.device, longest: int, endpoint: str) -> ModelPair:
    """Compute a model's weights on the device, and once more in a daemon, where they are resident from then on.

    The model to compile has ordinary parameters with the same contents, so that its calls are those of any program.
    Remote parameters would do as well, and cost each call some microseconds apiece.

    Raises:
        GenieError: They are not the same bits.
    """
    options: dict[str, str | bool] = {"daemons": endpoint, "progress": False}
    here, there = (build_empty(name, dtype=dtype, longest=longest) for _ in range(2))
    numel = largest_numel(here)
    local = made_weights(here, torch.arange(numel, dtype=torch.int32, device=device), seed=0)
    remote = made_weights(there, remote_indices(numel, options), seed=0)
    if fingerprint(local) != fingerprint(remote):
        raise GenieError(f"{name}: the weights made in the daemon are other bits than those made on {device}")
    parameters = dict(there.named_parameters())
    with torch.no_grad():
        for weight, tensor in local.items():
            parameters[weight].copy_(tensor)
    set_weights(here, local)
    _assume(endpoint, [parameters[weight] for weight in remote], list(remote.values()))
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what the computing took; the daemon beside this process wants it
    return ModelPair(here.to(device), there, tuple(remote.values()))


def _assume(endpoint: str, parameters: Sequence[Tensor], remote: Sequence[Tensor]) -> None:
    """Let remote tensors be the resident copies of parameters."""
    connection = CONNECTIONS.get(Options(daemons=(endpoint,), progress=False))
    handles = [handle for tensor in remote if (handle := handle_of(tensor)) is not None]
    with connection.session.lock:
        connection.weights.assume(parameters, [handle.id for handle in handles])
