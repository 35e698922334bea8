"""Tensors below the public interface: views that reinterpret, copies of many, identity of storages."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch._tensor_str import _add_suffixes

from dynamo_genie.torch_internals.probe import Probe, require


def conjugate_view(tensor: torch.Tensor) -> torch.Tensor:
    """Return the view that reads the same bytes as conjugates (`is_conj`)."""
    return torch._conj(tensor)


def negative_view(tensor: torch.Tensor) -> torch.Tensor:
    """Return the view that reads the same bytes as negatives (`is_neg`)."""
    return torch._neg_view(tensor)


def is_zeros_without_memory(tensor: torch.Tensor) -> bool:
    """Say whether a tensor stands for zeros and has no memory: autograd's gradient of `sgn`, for one."""
    return tensor._is_zerotensor()


def is_view(tensor: torch.Tensor) -> bool:
    """Say whether autograd takes a tensor for a view of another, whatever its class says."""
    return torch.Tensor._is_view(tensor)


def text_with_history(text: str, made_by: torch.autograd.graph.Node) -> str:
    """Add to a tensor's text which operation of autograd made it, as PyTorch prints it."""
    return _add_suffixes(  # type: ignore[no-any-return]  # torch: untyped
        text.removesuffix(")"), [f"grad_fn=<{type(made_by).__name__}>"], len("tensor("), False
    )


def copy_all(targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
    """Copy into each target what its source holds, in few launches."""
    torch._foreach_copy_(targets, sources)  # type: ignore[arg-type]  # any sequence will do


def _check_views() -> None:
    tensor = torch.tensor([1 + 2j])
    require(conjugate_view(tensor).is_conj() and conjugate_view(tensor).item() == 1 - 2j, "the view conjugates")
    require(negative_view(tensor).is_neg() and negative_view(tensor).item() == -1 - 2j, "the view negates")
    require(is_view(tensor[:1]) and not is_view(tensor), "views say that they are")


def _check_zeros() -> None:
    zeros = torch._efficientzerotensor((2,)).expand(3, 2)
    require(is_zeros_without_memory(zeros), "zeros without memory say so, and so do their views")
    require(not is_zeros_without_memory(zeros.clone()), "a copy of them has memory")
    require(zeros.clone().tolist() == [[0, 0]] * 3, "with zeros in it")


def _check_text() -> None:
    for size in (1, 6, 8, 10, 40):
        tensor = torch.ones(size, dtype=torch.float64, requires_grad=True) * 2
        made_by = tensor.grad_fn
        assert made_by is not None
        require(text_with_history(repr(tensor.detach()), made_by) == repr(tensor), "the text is as PyTorch's own")


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
    Probe("torch.Tensor._is_view", "casts anew what views a weight", _check_views),
    Probe("torch.Tensor._is_zerotensor", "sends zeros that have no memory", _check_zeros),
    Probe("torch._efficientzerotensor", "sends zeros that have no memory", _check_zeros),
    Probe("torch._tensor_str._add_suffixes", "prints what autograd knows of a result", _check_text),
    Probe("torch._foreach_copy_", "fills the inputs of a recorded CUDA graph", _check_copies),
    Probe("torch.UntypedStorage._cdata", "tells in a worker which tensors share memory", _check_storage),
    Probe("torch.Tensor._version", "notices weights that were written", _check_version),
)
