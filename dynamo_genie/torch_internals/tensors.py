"""Tensors below the public interface: views that reinterpret, copies of many, identity of storages."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dynamo_genie.torch_internals.probe import Probe, require


def conjugate_view(tensor: torch.Tensor) -> torch.Tensor:
    """Return the view that reads the same bytes as conjugates (`is_conj`)."""
    return torch._conj(tensor)


def negative_view(tensor: torch.Tensor) -> torch.Tensor:
    """Return the view that reads the same bytes as negatives (`is_neg`)."""
    return torch._neg_view(tensor)


def copy_all(targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
    """Copy into each target what its source holds, in few launches."""
    torch._foreach_copy_(targets, sources)  # type: ignore[arg-type]  # any sequence will do


def _check_views() -> None:
    tensor = torch.tensor([1 + 2j])
    require(conjugate_view(tensor).is_conj() and conjugate_view(tensor).item() == 1 - 2j, "the view conjugates")
    require(negative_view(tensor).is_neg() and negative_view(tensor).item() == -1 - 2j, "the view negates")


def _check_copies() -> None:
    targets = [torch.zeros(2), torch.zeros(3)]
    copy_all(targets, [torch.ones(2), torch.ones(3)])
    require(all(bool(target.all()) for target in targets), "each target is written")


def _check_storage() -> None:
    tensor = torch.ones(4)
    key = tensor.untyped_storage()._cdata
    require(tensor[1:].untyped_storage()._cdata == key, "views have the storage, and so the key, of their base")
    require(torch.ones(4).untyped_storage()._cdata != key, "other tensors have another")


def _check_version() -> None:
    tensor = torch.ones(2)
    before = tensor._version
    tensor.add_(1)
    require(tensor._version == before + 1, "a write in place is counted")


PROBES = (
    Probe("torch._conj", "brings tensors back from host memory", _check_views),
    Probe("torch._neg_view", "brings tensors back from host memory", _check_views),
    Probe("torch._foreach_copy_", "fills the inputs of a recorded CUDA graph", _check_copies),
    Probe("torch.UntypedStorage._cdata", "tells in a worker which tensors share memory", _check_storage),
    Probe("torch.Tensor._version", "notices weights that were written", _check_version),
)
