"""Weights computed where they shall live, from nothing but their names: no model crosses a wire to be measured.

Each number is a hash of its own index, scaled to the spread that `seeded` draws with. The operations are exact in
integers and in IEEE arithmetic, so a device computes the very bits that another one, or a daemon, computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn

from dynamo_genie.backend import genie
from dynamo_genie.bench.study.seeded import FreshWeight, fresh_weights

_INTEGER_OF_SIZE = MappingProxyType({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64})
_WEYL, _MIX = -1640531535, -2048144777
"""Odd numbers, as int32: 2**32 over the golden ratio, and a multiplier of xxHash32; products wrap around."""


def largest_numel(model: nn.Module) -> int:
    """Return how many elements the largest parameter has."""
    return max(parameter.numel() for parameter in model.parameters())


def remote_indices(numel: int, options: Mapping[str, str | bool]) -> Tensor:
    """Return 0, 1, 2, ... in a daemon: the one tensor from which all weights there are computed."""
    return torch.compile(_count, backend=genie, options={**options}, dynamic=False)(numel)


def _count(numel: int) -> Tensor:
    return torch.arange(numel, dtype=torch.int32)


def made_weights(model: nn.Module, indices: Tensor, seed: int) -> dict[str, Tensor]:
    """Return weights for all parameters of a model, by their names, tied ones once.

    Args:
        model: Its parameters tell shapes and dtypes; their contents are not looked at.
        indices: 0, 1, 2, ... as int32, one for each element of the largest parameter at least: the weights live there.
        seed: Other weights for another one.
    """
    with torch.no_grad():
        return {fresh.name: _computed(fresh, indices, seed) for fresh in fresh_weights(model)}


def set_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Let tensors, local or remote, be a model's parameters; tied ones stay tied."""
    made = {
        id(fresh.parameter): nn.Parameter(weights[fresh.name], requires_grad=False) for fresh in fresh_weights(model)
    }
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            setattr(module, name, made[id(parameter)])


def _computed(fresh: FreshWeight, indices: Tensor, seed: int) -> Tensor:
    dtype = fresh.parameter.dtype
    own = indices[: fresh.parameter.numel()].view(fresh.parameter.shape)
    if not fresh.spread:
        return torch.zeros_like(own, dtype=dtype).fill_(fresh.value)
    bits = own * _WEYL
    bits += crc32(f"{seed} {fresh.name}".encode()) & 0x7FFFFFFF
    bits ^= (bits >> 15) & 0x1FFFF  # the mask makes the shift a logical one: a copied sign would be lost
    bits *= _MIX
    bits ^= (bits >> 13) & 0x7FFFF
    return (bits.to(torch.float32) * (fresh.spread * 3**0.5 / 2**31)).to(dtype)  # uniform, of that spread


def fingerprint(weights: Mapping[str, Tensor]) -> int:
    """Return a number that weights have in common only where all their bits are equal, wherever they live."""
    total: Any = 0
    with torch.no_grad():
        for name in sorted(weights):
            bits = weights[name].view(_INTEGER_OF_SIZE[weights[name].itemsize])
            total = total * 31 + bits.sum(dtype=torch.int64)
    return int(total.item())
